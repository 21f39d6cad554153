// The page's side of PairWidget: draws the kernel's `view`, sends back what is pressed with the number of the pair.
// Texts go in by textContent only: whatever they contain is shown, never interpreted.

const KEYS = { arrowleft: "first", l: "first", arrowright: "second", r: "second", t: "tie", s: "skip" };
const LOOK = 300; // ms: an answer that comes sooner after its pair was meant for the one before it
const PATIENCE = 3000; // ms without a word from the kernel

function make(tag, name, text = "") {
  const element = document.createElement(tag);
  element.className = `tercet-${name}`;
  element.textContent = text;
  return element;
}

function card(side) {
  const element = make("article", "card");
  element.tabIndex = 0; // so that a long text scrolls by keys
  element.setAttribute("aria-label", side);
  return element;
}

function button(name, key, label, press) {
  const element = make("button", `press tercet-${name}`);
  const hint = make("kbd", "key", key);
  hint.setAttribute("aria-hidden", "true");
  element.type = "button";
  element.append(make("span", "label", label), hint);
  // The second click of a double click has detail 2, wherever the pair has gone meanwhile.
  element.addEventListener("click", (event) => event.detail < 2 && press());
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
  const [left, right] = [card("left"), card("right")];
  cards.append(left, right);

  const presses = make("div", "presses");
  const answers = [
    button("first", "←", "Left", () => answer("first")),
    button("tie", "T", "Tie", () => answer("tie")),
    button("skip", "S", "Skip", () => answer("skip")),
    button("second", "→", "Right", () => answer("second")),
  ];
  const again = button("again", "", "Try again", () => answer("again"));
  presses.append(...answers, again);

  const foot = make("footer", "foot");
  const line = make("div", "line");
  line.setAttribute("role", "status"); // read out as it changes
  foot.append(line, make("div", "hint", "click here to answer by keys"));
  root.append(head, bar, cards, presses, foot);
  el.append(root);

  let ask; // the pair that is shown
  let since = 0; // when it came
  let waiting = false; // an answer is on its way
  let patience;

  function draw() {
    const view = model.get("view");
    waiting = false;
    clearTimeout(patience);
    root.dataset.state = view.state;
    root.dataset.ask = view.ask ?? "";
    root.setAttribute("aria-label", view.question);
    root.setAttribute("aria-busy", String(view.state === "busy"));
    question.textContent = view.question;
    count.textContent = `${view.answered} of ${view.budget}`;
    bar.max = Math.max(view.budget, 1);
    bar.value = view.answered;
    line.textContent = view.line;
    line.classList.toggle("tercet-alarm", view.alarm);
    allow(view.state === "asking" || view.state === "stuck");
    if (view.state === "asking" && view.ask !== ask) {
      ask = view.ask;
      since = performance.now();
      for (const [place, text] of [[left, view.left], [right, view.right]]) {
        place.textContent = text;
        place.scrollTop = 0;
      }
      // The cards grow with what they show and never shrink: the buttons stay under the pointer.
      const height = Math.max(left.offsetHeight, right.offsetHeight); // 0 before the widget is on the page
      if (height) for (const place of [left, right]) place.style.minHeight = `${height}px`;
    }
  }

  // Not `disabled`: a disabled button would lose the focus, and with it the keys.
  function allow(yes) {
    root.classList.toggle("tercet-quiet", !yes);
    for (const element of [...answers, again]) element.setAttribute("aria-disabled", String(!yes));
  }

  function answer(what) {
    const { state } = model.get("view");
    if (waiting || state !== (what === "again" ? "stuck" : "asking")) return;
    if (what !== "again" && performance.now() - since < LOOK) return;
    waiting = true;
    allow(false);
    model.send(what === "again" ? { answer: what } : { ask, answer: what });
    patience = setTimeout(() => {
      line.textContent = "No word from the kernel yet: it is busy, or was restarted; then run this cell again.";
    }, PATIENCE);
  }

  // Before the notebook sees it, or an arrow would fold its headings and an x would cut its cell. Escape and whatever
  // has a modifier are the notebook's; so is every key while the focus is elsewhere.
  function onKey(event) {
    const modified = event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
    if (!event.composedPath().includes(root) || modified || event.key === "Escape") return;
    event.stopPropagation();
    const what = KEYS[event.key.toLowerCase()];
    if (what || (event.repeat && event.key === "Enter")) event.preventDefault(); // a held key answers once
    if (what && !event.repeat) answer(what);
  }

  model.on("change:view", draw);
  window.addEventListener("keydown", onKey, true);
  draw();
  return () => {
    model.off("change:view", draw);
    window.removeEventListener("keydown", onKey, true);
    clearTimeout(patience);
  };
}

export default { render };
