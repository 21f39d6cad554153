"""The annotation widget as a person uses it: JupyterLab, a kernel, Chromium, a mouse and keys.

Needs the extra `browser` and, on the path, `chromium` and `chromedriver` (Debian: `apt-get install chromium
chromium-driver`); skipped where one is missing. Pictures are left in the folder $TERCET_PICTURES where it is set.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tercet.designs import LabelStore

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = [name for name in ("anywidget", "jupyterlab", "selenium") if importlib.util.find_spec(name) is None]
MISSING += [name for name, found in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if found is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(MISSING), reason=f"a browser test; not installed: {', '.join(MISSING)}"),
    pytest.mark.xdist_group("browser"),  # one server, one browser
]

TOKEN = "only-for-this-test"
PATIENCE = 90  # seconds; the kernel imports JAX on a machine that may be busy
THEME = "@jupyterlab/apputils-extension:themes"
NEWS = "@jupyterlab/apputils-extension:notification"
MARKUP = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>\n    <b>four  spaces</b> & more'

CELL = """\
import json
import numpy as np
from tercet.designs import AnnotationLoop, LabelStore, annotation_widget
from tercet.models import BradleyTerry, Items, LinearHead

items = Items(np.random.default_rng(0).standard_normal((12, 3)), ids=[f"item {k}" for k in range(12)])
loop = AnnotationLoop(items, LabelStore("NAME.db"), BradleyTerry(LinearHead(1.0)), batch=5, candidates="all")
annotation_widget(loop, 8, who="Ann", texts=json.load(open("NAME.json")), question="Which answer helps more?")
"""
PRESS = "dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true, cancelable: true}))"
# A double click may be slower than the kernel: its second half, and a bouncing key, meet the next pair.
AGAIN = f"""
const done = arguments[0], root = document.querySelector(".tercet-pairs"), shown = root.dataset.query;
const press = root.querySelector(".tercet-second");
new MutationObserver((_, observer) => {{
  if (root.dataset.query === shown) return;
  observer.disconnect();
  press.click();
  root.{PRESS};
  const second = new MouseEvent("click", {{detail: 2, bubbles: true}});
  setTimeout(() => {{ press.dispatchEvent(second); done(); }}, 450);
}}).observe(root, {{attributes: true}});
press.click();
"""
IMPATIENT = f"""
const root = document.querySelector(".tercet-pairs"), line = root.querySelector(".tercet-message");
[window.said, window.pressed] = [[], 0];
new MutationObserver(() => window.said.push(line.textContent)).observe(line, {{childList: true}});
setInterval(() => {{
  if (root.dataset.state !== "busy") return;
  window.pressed += 1;
  root.{PRESS};
  root.querySelector(".tercet-second").click();
}}, 5);
"""


def texts(plain: bool) -> dict[str, str]:
    """What each item shows: markup that must not run, or realistic answers."""
    if not plain:
        return {f"item {k}": f"{MARKUP} {k}" for k in range(12)}
    long = "To boil an egg, bring water to a rolling boil, lower the egg in with a spoon, and wait seven minutes.\n\n"
    steps = "\n".join(f"    {k}. wait another minute, and look" for k in range(1, 13))
    return {f"item {k}": (f"{long}{steps}" if k % 2 else f"{long}Salt helps.") for k in range(12)}


class Lab:
    """A running JupyterLab."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url

    def call(self, method: str, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as reply:
            body = reply.read()
        return json.loads(body) if body else None

    def set(self, plugin: str, **values: Any) -> None:
        self.call("PUT", f"lab/api/settings/{plugin}", {"raw": json.dumps(values)})

    def notebook(self, name: str, plain: bool = False) -> str:
        """Write a notebook of one cell; returns its address."""
        (self.folder / f"{name}.json").write_text(json.dumps(texts(plain)))
        cell = {"id": "one", "cell_type": "code", "source": CELL.replace("NAME", name), "metadata": {}, "outputs": []}
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        content = {"cells": [cell | {"execution_count": None}], "metadata": {"kernelspec": spec}}
        (self.folder / f"{name}.ipynb").write_text(json.dumps(content | {"nbformat": 4, "nbformat_minor": 5}))
        return f"{self.url}doc/tree/{name}.ipynb?token={TOKEN}"

    def store(self, name: str) -> LabelStore:
        return LabelStore(self.folder / f"{name}.db", create=False)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab on a free port of this machine, with separate settings; its kernels end with it."""
    folder = tmp_path_factory.mktemp("lab")
    homes = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "IPYTHONDIR")
    own = {home: str(folder / home.lower()) for home in (*homes, "JUPYTERLAB_WORKSPACES_DIR")}
    (folder / "files").mkdir()
    options = ["--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--IdentityProvider.token={TOKEN}", "--no-browser"]
    options += [f"--ServerApp.root_dir={folder / 'files'}", "--allow-root", "--LabApp.news_url=None"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], cwd=folder, env=os.environ | own, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        try:
            said = folder / "jupyter_runtime_dir" / f"jpserver-{server.pid}.json"
            wait(lambda: said.exists() and said.read_text().strip().endswith("}"), "the server")
            running = Lab(folder / "files", json.loads(said.read_text())["url"])
            wait(lambda: running.call("GET", "api/status"), "the server's answer")
            running.set(NEWS, fetchNews="false", checkForUpdates=False)
            yield running
            for kernel in running.call("GET", "api/kernels"):
                running.call("DELETE", f"api/kernels/{kernel['id']}")
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window; nothing is downloaded."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for option in ("headless=new", "window-size=1200,900", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{option}")
    options.add_argument("--disable-background-networking")
    options.add_argument("--disable-gpu")
    if os.name == "posix" and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has none for root
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    driver.set_script_timeout(PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()


def wait(found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The value of `found()` as soon as it is true; an error in it means not yet."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            if last := found():
                return last
        except Exception as error:  # no such element yet, connection refused
            last = error
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s for {what}; last: {last!r}")


class Page:
    """The widget in a notebook, as seen from outside."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        wait(lambda: browser.find_element("css selector", ".jp-Notebook .cm-content"), "the notebook")
        self.run()

    def run(self) -> None:
        """Run the cell by keys, and wait for its widget."""
        # A cell run before the kernel is ready is lost. JupyterLab 4.6 shows its status in the toolbar, others below.
        places = {"#jp-main-statusbar": ") | Idle", ".jp-NotebookPanel-toolbar": "Kernel status: Idle"}
        wait(lambda: any(told in self.text(place) for place, told in places.items()), "the kernel")
        for old in self.browser.find_elements("css selector", ".tercet-pairs"):
            self.browser.execute_script("arguments[0].remove()", old)
        before = self.text(".jp-Cell .jp-InputPrompt")
        wait(lambda: self.starts(before), "the cell")
        wait(lambda: self.find(".tercet-pairs"), "the widget")

    def starts(self, before: str) -> bool:
        """Press Shift and Enter in the cell; whether its number has changed, or is a star."""
        from selenium.webdriver import ActionChains, Keys

        self.click(".jp-Notebook .cm-content")
        ActionChains(self.browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
        time.sleep(1.0)
        return self.text(".jp-Cell .jp-InputPrompt") != before

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.find(selector).get_property("textContent")

    def click(self, selector: str) -> bool:
        self.find(selector).click()
        return True

    def keys(self, *keys: str) -> None:
        """Press keys one after the other wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def shows(self, count: str, instead_of: str = "") -> None:
        """Wait for another pair than this, or the end, and until answers are accepted; check the count."""
        root = self.find(".tercet-pairs")
        wait(lambda: root.get_attribute("data-state") in ("asking", "done"), "a pair")
        wait(lambda: root.get_attribute("data-query") != instead_of, "the next pair")
        wait(lambda: root.get_attribute("data-state") in ("asking", "done"), "the next pair")  # after a fit
        time.sleep(0.4)
        assert self.text(".tercet-count") == count

    def after(self, count: str, answer: Callable[..., Any], *arguments: Any) -> None:
        """Answer, and wait for the next pair."""
        shown = self.find(".tercet-pairs").get_attribute("data-query")
        answer(*arguments)
        self.shows(count, instead_of=shown)

    @property
    def pair(self) -> tuple[str, ...]:
        return tuple(
            card.get_property("textContent") for card in self.browser.find_elements("class name", "tercet-card")
        )

    def picture(self, name: str) -> None:
        folder = os.environ.get("TERCET_PICTURES")
        shot = self.find(".tercet-pairs").screenshot_as_png
        assert shot.startswith(b"\x89PNG")
        if folder:
            Path(folder, f"{name}.png").write_bytes(shot)
            Path(folder, f"{name}-page.png").write_bytes(self.browser.get_screenshot_as_png())


def outcomes(store: LabelStore) -> list[float | None]:
    return [label.outcome for label in store.labels()]


def test_a_person_answers_a_campaign(lab: Lab, browser: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    url = lab.notebook("answers")
    page = Page(browser, url)
    page.shows("0 of 8")
    with lab.store("answers") as store:
        query = store.pending("Ann")[0]
        assert page.pair == tuple(
            texts(False)[str(name)] for name in (query.first, query.second)
        )  # also its line breaks
        page.after("1 of 8", ActionChains(browser).double_click(page.find(".tercet-first")).perform)
        assert outcomes(store) == [1.0]
        page.after("2 of 8", browser.execute_async_script, AGAIN)
        assert outcomes(store) == [1.0, 0.0]
        page.after("2 of 8", page.click, ".tercet-skip")
        page.after("3 of 8", page.keys, "t")  # the focus is still on a button of the widget
        browser.execute_script(IMPATIENT)
        page.after("4 of 8", page.keys, Keys.ARROW_RIGHT)  # the last of the batch: the model is fitted
        said, pressed = browser.execute_script("return [window.said, window.pressed]")
        assert "Choosing the next pairs ..." in said
        assert pressed > 0
        assert outcomes(store) == [1.0, 0.0, None, 0.5, 0.0]
        assert len(store.rounds()) == 2

        page.click(".jp-Notebook .cm-content")
        page.keys(Keys.ESCAPE, Keys.ARROW_LEFT, "t", "s")  # the notebook's keys, not ours
        time.sleep(0.5)
        assert len(store.labels()) == 5
        page.click(".tercet-count")
        burst = f"for (let k = 0; k < 20; k++) document.activeElement.{PRESS}"
        page.after("5 of 8", browser.execute_script, burst)  # a person in a hurry
        page.after("6 of 8", page.keys, "x", "y", "r")  # in a notebook they cut the cell and change it; r is the right
        assert outcomes(store)[5:] == [1.0, 0.0]

        store.record(store.pending("Ann")[0].id, "tie", "Ann")  # another window answered first
        page.after("7 of 8", page.click, ".tercet-first")
        assert "the first answer stands" in page.text(".tercet-message.tercet-warning")

        for kernel in lab.call("GET", "api/kernels"):
            lab.call("POST", f"api/kernels/{kernel['id']}/restart")
        page.click(".tercet-first")  # in a widget unknown to the restarted kernel
        wait(lambda: "run this cell again" in page.text(".tercet-message"), "a hint")
        page = Page(browser, url)  # the old page may never learn that a kernel it did not restart is ready
        page.shows("7 of 8")
        page.keys(Keys.ESCAPE)
        page.after("8 of 8", page.click, ".tercet-tie")
        assert page.text(".tercet-message") == "Done: the store holds 8 answers."
        assert outcomes(store)[5:] == [1.0, 0.0, 0.5, 0.5]
    assert browser.execute_script("return window.hacked === undefined")
    assert not browser.find_elements("css selector", ".tercet-card img, .tercet-card b")


CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
function light(colour) {
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const style = getComputedStyle(document.querySelector(arguments[0]));
const [paper, ink] = [light(style.backgroundColor), light(style.color)];
return [paper, (Math.max(paper, ink) + 0.05) / (Math.min(paper, ink) + 0.05)];
"""


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_it_follows_the_theme(lab: Lab, browser: Any, theme: str) -> None:
    lab.set(THEME, theme=f"JupyterLab {theme}")
    page = Page(browser, lab.notebook(theme.lower(), plain=True))
    page.shows("0 of 8")
    page.click(".tercet-count")
    for key, count in (("t", 1), ("l", 2), ("s", 2)):
        page.after(f"{count} of 8", page.keys, key)
    page.picture(theme.lower())
    for selector in (".tercet-card", ".tercet-button"):
        paper, contrast = browser.execute_script(CONTRAST, selector)
        assert (paper > 0.5) == (theme == "Light")
        assert contrast > 4.5  # WCAG 2.1, level AA
