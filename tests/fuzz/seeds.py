"""Writes the first corpus: seeds.py FOLDER. Models of models/ that are small, and one file for each official node case,
which has every operator in its own spelling."""

import hashlib
import pathlib
import sys
import warnings

warnings.simplefilter("ignore")
LARGEST = 64 << 10  # bytes: libFuzzer is fast on small files


def node_cases():
    try:
        from onnx.backend.test.loader import load_model_tests
        import onnx.backend.test.case.node as node
    except ImportError:
        return
    del load_model_tests
    for case in node.collect_testcases(None):
        yield case.model.SerializeToString()


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    root = pathlib.Path(__file__).resolve().parents[2]
    models = [path.read_bytes() for path in sorted(root.glob("models/**/*.onnx"))]
    for data in [*models, *node_cases()]:
        if len(data) <= LARGEST:
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


main()
