"""A learner runs a cell again: each code cell of all notebooks twice in a row, and nothing fails or says otherwise."""

import nbformat
import pytest
from nbclient import NotebookClient
from test_notebooks import NOTEBOOKS, ROOT, few_images

# (notebook, first line of the cell): what PyTorch itself says the second time, which is a lesson.
MEANT_TO_FAIL = {("04_train", "loss.backward()"): "Trying to backward through the graph a second time"}


def printed(cell):
    """All that a cell printed and gave back, in one text: the kernel may send it in pieces."""
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_can_be_run_twice(path, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_ROOT", str(tmp_path))
    notebook = few_images(nbformat.read(path, as_version=4))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [twin for cell in cells for twin in (cell, nbformat.from_dict(cell))]
    client = NotebookClient(notebook, timeout=240, allow_errors=True, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    wrong = []
    for once, again in zip(notebook.cells[::2], notebook.cells[1::2], strict=True):
        key = (path.stem, once.source.partition("\n")[0])
        outputs = [output for cell in (once, again) for output in cell.outputs]
        errors = [output.evalue or output.ename for output in outputs if output.output_type == "error"]
        if errors and (len(errors) > 1 or MEANT_TO_FAIL.get(key, "never") not in errors[0]):
            wrong.append((once.source, errors))
        if (
            "nbval-check-output" in once.metadata.get("tags", [])
            and key not in MEANT_TO_FAIL
            and printed(once) != printed(again)
        ):
            wrong.append((once.source, printed(once), printed(again)))
    assert not wrong
