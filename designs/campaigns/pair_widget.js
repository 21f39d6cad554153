// The page's side of PairWidget: draws the kernel's `view`, and sends each answer with the number of its query.
// Texts are set by textContent only: whatever they contain is shown, never interpreted.

const KEYS = { arrowleft: "first", l: "first", arrowright: "second", r: "second", t: "tie", s: "skip" };
const SETTLE = 300; // ms: an answer that comes sooner after its pair was meant for the pair before
const TIMEOUT = 3000; // ms without a reply of the kernel

function make(tag, name, text = "") {
  const element = document.createElement(tag);
  element.className = `tercet-${name}`;
  element.textContent = text;
  return element;
}

function makeCard(side) {
  const element = make("article", "card");
  element.tabIndex = 0; // so that a long text can be scrolled by keys
  element.setAttribute("aria-label", side);
  return element;
}

function makeButton(name, key, label, onPress) {
  const element = make("button", `button tercet-${name}`);
  const hint = make("kbd", "key", key);
  hint.setAttribute("aria-hidden", "true");
  element.type = "button";
  element.append(make("span", "label", label), hint);
  // The second click of a double click has detail 2, whichever pair is shown by then.
  element.addEventListener("click", (event) => event.detail < 2 && onPress());
  return element;
}

function render({ model, el }) {
  const root = make("section", "pairs");
  root.tabIndex = 0;
  root.setAttribute("role", "group");

  const head = make("header", "head");
  const question = make("div", "question");
  const count = make("div", "count");
  const bar = make("progress", "bar");
  bar.setAttribute("aria-label", "answers");
  head.append(question, count);

  const cards = make("div", "cards");
  const [left, right] = [makeCard("left"), makeCard("right")];
  cards.append(left, right);

  const buttons = make("div", "buttons");
  const answers = [
    makeButton("first", "←", "Left", () => send("first")),
    makeButton("tie", "T", "Tie", () => send("tie")),
    makeButton("skip", "S", "Skip", () => send("skip")),
    makeButton("second", "→", "Right", () => send("second")),
  ];
  const retry = makeButton("retry", "", "Try again", () => send("retry"));
  buttons.append(...answers, retry);

  const foot = make("footer", "foot");
  const message = make("div", "message");
  message.setAttribute("role", "status"); // screen readers read it out when it changes
  foot.append(message, make("div", "hint", "click here to answer by keys"));
  root.append(head, bar, cards, buttons, foot);
  el.append(root);

  let query; // the query that is shown
  let shownAt = 0; // when it appeared
  let waiting = false; // for the kernel's reply to an answer
  let timer;

  function draw() {
    const view = model.get("view");
    waiting = false;
    clearTimeout(timer);
    root.dataset.state = view.state;
    root.dataset.query = view.query ?? "";
    root.setAttribute("aria-label", view.question);
    root.setAttribute("aria-busy", String(view.state === "busy"));
    question.textContent = view.question;
    count.textContent = `${view.answered} of ${view.budget}`;
    bar.max = Math.max(view.budget, 1);
    bar.value = view.answered;
    message.textContent = view.message;
    message.classList.toggle("tercet-warning", view.warning);
    enable(view.state === "asking" || view.state === "failed");
    if (view.state === "asking" && view.query !== query) {
      query = view.query;
      shownAt = performance.now();
      for (const [card, text] of [[left, view.left], [right, view.right]]) {
        card.textContent = text;
        card.scrollTop = 0;
      }
      // The cards grow with their texts and never shrink, so that the buttons stay under the pointer.
      const height = Math.max(left.offsetHeight, right.offsetHeight); // 0 before the widget is on the page
      if (height) for (const card of [left, right]) card.style.minHeight = `${height}px`;
    }
  }

  // Not `disabled`: a disabled button would lose the focus, and the keys with it.
  function enable(yes) {
    root.classList.toggle("tercet-disabled", !yes);
    for (const element of [...answers, retry]) element.setAttribute("aria-disabled", String(!yes));
  }

  function send(answer) {
    const { state } = model.get("view");
    if (waiting || state !== (answer === "retry" ? "failed" : "asking")) return;
    if (answer !== "retry" && performance.now() - shownAt < SETTLE) return;
    waiting = true;
    enable(false);
    model.send(answer === "retry" ? { answer } : { query, answer });
    timer = setTimeout(() => {
      message.textContent = "No reply from the kernel yet. It may be busy; if it was restarted, run this cell again.";
    }, TIMEOUT);
  }

  // Handled before the notebook sees it, where an arrow would collapse headings and an x would cut the cell. Escape and
  // keys with a modifier are left to the notebook; so is every key while the focus is elsewhere.
  function onKey(event) {
    const modified = event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
    if (!event.composedPath().includes(root) || modified || event.key === "Escape") return;
    event.stopPropagation();
    const answer = KEYS[event.key.toLowerCase()];
    if (answer || (event.repeat && event.key === "Enter")) event.preventDefault(); // a key held down answers once
    if (answer && !event.repeat) send(answer);
  }

  model.on("change:view", draw);
  window.addEventListener("keydown", onKey, true);
  draw();
  return () => {
    model.off("change:view", draw);
    window.removeEventListener("keydown", onKey, true);
    clearTimeout(timer);
  };
}

export default { render };
