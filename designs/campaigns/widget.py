"""`annotation_widget`: a person answers the pairs of a campaign in a notebook. Imports no anywidget until called."""

from __future__ import annotations

from tercet.designs import campaigns
from tercet.designs.campaigns.annotators import Texts
from tercet.designs.campaigns.campaign import AnnotationLoop


def annotation_widget(
    loop: AnnotationLoop,
    budget: int,
    who: str = "me",
    texts: Texts | None = None,
    question: str = "Which one is better?",
) -> campaigns.PairWidget:
    """Show the pairs of a campaign side by side in a notebook until its store holds `budget` answers.

    Left, Right, Tie and Skip are buttons, and keys (left and right arrow or l and r, t, s) while the widget has the
    focus. Each answer is stored before the next pair is shown; after a batch the model is refitted, which takes
    seconds. Stop at any time: running the same cell again continues where the store ends, also after a restart of the
    kernel. Messages (a full disk, a pair answered elsewhere) are shown below the cards.

    In JupyterLab, Notebook 7, VS Code and Colab, by anywidget (https://anywidget.dev), an extra:
    `pip install 'tercet[widget]'`.

    Parameters
    ----------
    loop : the campaign; every answer opens its store anew, so that it may be closed
    budget : answers in the store at the end, those it holds already included; skips do not count
    who : name of the annotator
    texts : what to show for each id (default: the id itself), as plain text with its line breaks; never as HTML
    question : shown above each pair

    Returns
    -------
    PairWidget
        A widget: the last line of a cell shows it.

    Raises
    ------
    ImportError
        Where anywidget is not installed.
    ValueError
        Too few candidate pairs are left for this budget; a store of other items.

    Examples
    --------
    >>> import os, tempfile
    >>> from tercet.datasets import simulated_prompts
    >>> from tercet.designs import AnnotationLoop, LabelStore, annotation_widget
    >>> items, _ = simulated_prompts(20, 5, 8)
    >>> folder = tempfile.TemporaryDirectory()
    >>> with LabelStore(os.path.join(folder.name, "labels.db")) as store:
    ...     widget = annotation_widget(AnnotationLoop(items, store), budget=60, who="Ann")
    ...     widget.view["state"], widget.view["answered"], widget.view["budget"]
    ('asking', 0, 60)
    >>> folder.cleanup()
    """
    try:
        widget = campaigns.PairWidget
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tercet"):
            raise
        raise ImportError("annotation_widget needs anywidget: pip install 'tercet[widget]'.") from error
    loop.check_budget(budget, who)
    return widget(loop, budget, who, texts, question)
