"""Checks what `dcff export` and `dcff publish --dry-run` wrote, with the programs that others use.

    check.py versions      what the packages are
    check.py network DIR   the exports of one network in DIR against DIR/expected.safetensors
    check.py card DIR      the card of a repository in DIR
    check.py hub REPO DIR  a repository on the Hub at HF_ENDPOINT against the tree in DIR
    check.py predict DIR JSON IMAGE...  the predictions in the file JSON against those of the repository in DIR

Each check prints a line; a failed one ends the program with a message and exit code 1.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

# Folders are compared: importing a network's module must add nothing to them.
sys.dont_write_bytecode = True

# Largest difference of logits, relative to the largest logit.
TOLERANCE = 1e-4


def fail(message):
    sys.exit(f"error: {message}")


def compact_network(folder):
    """The network of `folder` by means of the modeling_dcff.py that lies there."""
    spec = importlib.util.spec_from_file_location("modeling_dcff", folder / "modeling_dcff.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CompactNetwork.from_pretrained(folder)


def compare(name, got, expected):
    if got.shape != expected.shape:
        fail(f"{name}: expected logits {expected.shape}, got {got.shape}")
    worst = np.abs(got - expected).max() / np.abs(expected).max()
    # `not <=` also catches NaN.
    if not worst <= TOLERANCE:
        fail(f"{name}: expected a relative difference of at most {TOLERANCE}, got {worst:.2e}")
    print(f"{name}: relative difference {worst:.1e}")


def with_torch(folder, images):
    with torch.no_grad():
        return compact_network(folder)(torch.from_numpy(images)).numpy()


def with_onnxruntime(file, images):
    onnx.checker.check_model(str(file), full_check=True)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": images})[0]


def versions():
    for package in ("torch", "numpy", "onnx", "onnxruntime", "safetensors", "huggingface_hub"):
        print(f"{package} {importlib.import_module(package).__version__}")


def check_network(folder):
    expected = load_file(folder / "expected.safetensors")
    images, logits = expected["images"], expected["logits"]
    # Batch norm must matter: without its statistics the logits would be others.
    tensors = load_file(folder / "artefact" / "model.safetensors")
    means = np.concatenate([v for k, v in tensors.items() if k.endswith("running_mean")])
    variances = np.concatenate([v for k, v in tensors.items() if k.endswith("running_var")])
    if np.abs(means).max() < 1e-2 or np.abs(variances - 1).max() < 1e-2:
        fail(f"{folder.name}: the batch norms are the identity: nothing was trained")
    for form in ("plain", "folded"):
        for count in (1, 7):
            name = f"{folder.name}, {form}, batch {count}"
            x, y = images[:count], logits[:count]
            compare(f"{name}, PyTorch", with_torch(folder / form, x), y)
            compare(f"{name}, onnxruntime", with_onnxruntime(folder / form / "model.onnx", x), y)
    # Norms of other maps than a convolution's stay: behind concatenations, and behind the constants of removed filters.
    nodes = onnx.load(folder / "folded" / "model.onnx").graph.node
    convolved = {output for node in nodes if node.op_type == "Conv" for output in node.output}
    if any(node.op_type == "BatchNormalization" and node.input[0] in convolved for node in nodes):
        fail(f"{folder.name}: the folded file still has batch norms behind convolutions")
    session = onnxruntime.InferenceSession(folder / "plain" / "model.onnx")
    properties = session.get_modelmeta().custom_metadata_map
    config = json.loads((folder / "plain" / "config.json").read_text())
    if json.loads(properties["preprocessing"]) != config["pretrained_cfg"]:
        fail(f"{folder.name}: the ONNX file tells another preprocessing than config.json")
    with safe_open(folder / "plain" / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    if metadata["format"] != "pt" or "made_by" not in json.loads(metadata["provenance"]):
        fail(f"{folder.name}: unexpected safetensors metadata {metadata}")
    print(f"{folder.name}: metadata are in place")


def check_card(folder):
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import model_index_to_eval_results

    card = ModelCard.load(folder / "README.md", ignore_metadata_errors=False)
    data = card.data.to_dict()
    for key, expected in {"library_name": "dcff", "pipeline_tag": "image-classification"}.items():
        if data[key] != expected:
            fail(f"card: {key}: expected {expected}, got {data[key]}")
    name, results = model_index_to_eval_results(data["model-index"])
    summary = json.loads((folder / "training" / "summary.json").read_text())
    accuracies = [r.metric_value for r in results if r.metric_type == "accuracy"]
    if accuracies != [summary[when]["test"]["accuracy"] for when in ("last", "chosen")]:
        fail(f"card: accuracies {accuracies} are not the run's")
    if any(r.dataset_split != "test" or r.dataset_config is None for r in results):
        fail("card: a result without configuration or split")
    print(f"card of {name}: {len(results)} results")


def check_hub(repo, folder):
    from huggingface_hub import snapshot_download

    snapshot = Path(snapshot_download(repo))
    names, arrived = (
        {p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()}
        for tree in (folder, snapshot)
    )
    # The Hub itself adds .gitattributes.
    if arrived - {".gitattributes"} != names:
        fail(f"{repo}: expected {sorted(names)}, got {sorted(arrived)}")
    for name in names:
        if (snapshot / name).read_bytes() != (folder / name).read_bytes():
            fail(f"{repo}: {name} is not what was published")
    config = json.loads((snapshot / "config.json").read_text())
    size = config["pretrained_cfg"]["input_size"]
    images = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    logits = with_torch(snapshot, images)
    compare(f"{repo}, onnxruntime", with_onnxruntime(snapshot / "model.onnx", images), logits)
    print(f"{repo}: {len(names)} files arrived, and PyTorch loads them")


def check_predict(folder, predictions, images):
    network = compact_network(folder)
    for image, ours in zip(images, json.loads(predictions.read_text())["images"], strict=True):
        pixels = read_image(image)
        with torch.no_grad():
            probabilities = network(network.preprocess(pixels)).softmax(1)[0]
        for each in ours["classes"]:
            theirs = float(probabilities[each["index"]])
            if network.labels[each["index"]] != each["label"]:
                fail(f"{image}: {each['label']} is not class {each['index']}")
            # Our resized images are rounded to bytes, PyTorch's are not.
            if not abs(theirs - each["probability"]) <= 1e-2:
                fail(f"{image}: {each['label']}: {each['probability']}, with PyTorch {theirs}")
        print(f"{image}: {ours['classes'][0]['label']}, as with PyTorch")
    check_border(network)


def check_border(network):
    """Bytes and single images are what they should be, and what is neither is refused."""
    channels, height, width = network.config["pretrained_cfg"]["input_size"]
    images = torch.randint(0, 256, (2, channels, height + 9, width + 5), dtype=torch.uint8)
    expected = network.preprocess(images.float() / 255)
    if not expected.isfinite().all():
        fail("preprocess: values that are not finite")
    if not torch.equal(network.preprocess(images), expected):
        fail("preprocess: bytes are not bytes over 255")
    if not torch.equal(network.preprocess(images[0]), expected[:1]):
        fail("preprocess: one image is not a batch of one")
    for wrong in (images.long(), images.float(), images[0, 0], images[:, :0], images.float() / 0):
        try:
            network.preprocess(wrong)
        except (TypeError, ValueError):
            continue
        fail(f"preprocess: took {wrong.dtype} of {list(wrong.shape)}")
    print("preprocess: bytes, one image, and what is neither")


def read_image(path):
    """The image at `path` as [1, 3, H, W] in 0..1."""
    from PIL import Image

    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"), dtype=np.float32))
    return pixels.permute(2, 0, 1)[None] / 255


def main():
    match sys.argv[1:]:
        case ["versions"]:
            versions()
        case ["network", folder]:
            check_network(Path(folder))
        case ["card", folder]:
            check_card(Path(folder))
        case ["hub", repo, folder]:
            check_hub(repo, Path(folder))
        case ["predict", folder, predictions, *images]:
            check_predict(Path(folder), Path(predictions), [Path(image) for image in images])
        case _:
            fail(__doc__)


main()
