"""What a SavedModel from elsewhere must not do. A SavedModel is a program: it is read here before it is loaded.

TensorFlow runs whatever operations it finds, and some read and write files, open connections or call into the process
(its own SECURITY.md calls a model a program for that reason). An export of this package needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError, one_line

if TYPE_CHECKING:
    from tensorflow.core.framework import function_pb2, node_def_pb2

#: Operations that TensorFlow marks as having state or effects, and that exports hold all the same: variables, calls,
#: control flow, and the data sets of one image that keep a bad one from failing its batch.
_NEEDED = {
    "AssignVariableOp", "DatasetToSingleElement", "DisableCopyOnRead", "If", "PartitionedCall", "ReadVariableOp",
    "StatefulPartitionedCall", "TensorDataset", "TensorSliceDataset", "VarHandleOp", "VarIsInitializedOp", "While",
}  # fmt: skip

#: Operations that reach out of the graph although TensorFlow does not mark them: files, code of the process, its end,
#: and what a debugger would be told, for which a file or a server can be named.
_REACHING_OUT = {
    "Abort", "CacheDataset", "CopyHost", "DebugIdentity", "DebugNanCount", "DebugNumericSummary",
    "DebugNumericSummaryV2", "InitializeTableFromTextFile", "MatchingFiles", "PyFuncStateless", "ReadFile",
    "RegisterDataset", "RegisterDatasetV2", "SnapshotChunkDataset", "SnapshotDataset", "SnapshotDatasetReader",
    "SnapshotDatasetV2", "SnapshotNestedDatasetReader",
}  # fmt: skip

#: Only the two functions that TensorFlow itself calls hold these, to save variables and to load them.
_SAVING = {"MergeV2Checkpoints", "RestoreV2", "SaveV2"}


def require_harmless(export_dir: Path) -> None:
    """Looks whether a SavedModel computes, and does nothing else.

    Raises:
        ExportError: It holds an operation that reads or writes files or runs code, one that is unknown, or is damaged.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString((export_dir / "saved_model.pb").read_bytes())
    except (OSError, DecodeError) as error:
        raise ExportError(f"{export_dir} cannot be loaded ({one_line(error)}); run the stage export again") from error
    found = sorted({name for graph in model.meta_graphs for name in _harmful(graph)})
    if found:
        names = ", ".join(found[:5]) + (" ..." if len(found) > 5 else "")
        raise ExportError(
            f"{export_dir} is refused: its graph holds {names}, which no export has and which may read or write files "
            "or run code; nothing was loaded"
        )


def _harmful(graph: Any) -> Iterator[str]:
    """Yields the operations of a meta graph that no export has."""
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    saving = _saving_functions(graph, functions)
    yield from _harmful_nodes(graph.graph_def.node, functions, set())
    for name, function in functions.items():
        yield from _harmful_nodes(
            function.node_def, functions, _SAVING | {"ShardedFilename"} if name in saving else set()
        )


def _harmful_nodes(nodes: Any, functions: dict[str, function_pb2.FunctionDef], allowed: set[str]) -> Iterator[str]:
    from tensorflow.python.framework import op_def_registry

    for name in {node.op for node in nodes} - allowed - _NEEDED - functions.keys():
        known = op_def_registry.get(name)
        if known is None or known.is_stateful or name in _REACHING_OUT or name in _SAVING:
            yield name


def _saving_functions(graph: Any, functions: dict[str, function_pb2.FunctionDef]) -> set[str]:
    """Returns the functions behind the two nodes that `saver_def` names, if nothing else can call them."""
    savers = {graph.saver_def.save_tensor_name.partition(":")[0], graph.saver_def.restore_op_name}
    saving = {name for node in graph.graph_def.node if node.name in savers for name in _called(node)}
    others = [node for node in graph.graph_def.node if node.name not in savers]
    others += [node for function in functions.values() for node in function.node_def]
    callable_otherwise = {name for node in others for name in (node.op, *_called(node))}
    used = {source.partition(":")[0].lstrip("^") for node in others for source in node.input}
    served = {info.name for signature in graph.signature_def.values() for info in signature.outputs.values()}
    if savers & (used | {name.partition(":")[0] for name in served}):
        return set()
    return saving - callable_otherwise - set(graph.object_graph_def.concrete_functions)


def _called(node: node_def_pb2.NodeDef) -> Iterator[str]:
    """Yields the functions that a node names."""
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)
