"""A bundle with two small encoders: true ONNX graphs, a true tokenizer, no weights to speak of."""

from pathlib import Path

from onnx import GraphProto, TensorProto, helper
from support.tiny_bundle import Sizes, make_twin, manifest_of, seal, write_files
from tokenizers import Tokenizer, models, pre_tokenizers

from mmsr.bundle.manifest import GraphSpec, Manifest, TensorSpec
from mmsr.bundle.repository import Repository

SIZE = 16  # pixels a side
WIDTH = 3  # of the image feature: the mean colour


def publish_with_encoders(root: Path) -> str:
    """Publish a bundle with both encoders as `stable`; return its id."""
    sizes = Sizes(items=60, probes=5)
    repository = Repository(root)
    repository.create()
    with repository.stage() as folder:
        write_files(folder, make_twin(sizes), sizes)
        image, text = write_image_encoder(folder), write_text_encoder(folder)
        values = vars(manifest_of(sizes))
        graphs = {**values["graphs"], "image_encoder": image, "text_encoder": text}
        features = {"image": {"preprocess": {"size": SIZE}}, "text": {}}
        seal(folder, Manifest(**{**values, "graphs": graphs, "features": features}))
        bundle_id = repository.publish(folder)
    repository.promote(bundle_id, "stable")
    return bundle_id


def write_image_encoder(folder: Path) -> GraphSpec:
    """Write a graph that returns the mean colour."""
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
            node("ReduceMean", ["real", "axes"], ["feature"], keepdims=0),
        ],
        "image",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["B", WIDTH])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    return _save(
        folder / "image_encoder.onnx",
        graph,
        [TensorSpec(name="pixels", dtype="uint8", shape=("B", SIZE, SIZE, 3))],
        WIDTH,
    )


def write_text_encoder(folder: Path) -> GraphSpec:
    """Write a graph that counts tokens, and a tokenizer that splits at spaces."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "Title": 1, "of": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding()
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Mul", ["input_ids", "attention_mask"], ["kept"]),
            node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=1),
            node("Cast", ["sum"], ["feature"], to=TensorProto.FLOAT),
        ],
        "text",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["B", 1])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    inputs = [
        TensorSpec(name=name, dtype="int64", shape=("B", "T"))
        for name in ("input_ids", "attention_mask")
    ]
    return _save(folder / "text_encoder.onnx", graph, inputs, 1)


def _save(path: Path, graph: GraphProto, inputs: list[TensorSpec], width: int) -> GraphSpec:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    feature = TensorSpec(name="feature", dtype="float32", shape=("B", width))
    return GraphSpec(file=path.name, inputs=tuple(inputs), outputs=(feature,))
