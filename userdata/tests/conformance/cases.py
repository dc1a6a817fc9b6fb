"""cases.py FOLDER: the cases of cloud-init's and netplan's own tests, one JSON object a line.

Each has `suite`, `name`, `kind` (`config`, `network` or `merge`), `texts`, and `theirs`: whether
they take it, or for merges the YAML that they expect.
"""

import ast
import importlib.util
import json
import pathlib
import sys
import textwrap


def emit(suite, name, kind, texts, theirs):
    case = {"suite": suite, "name": name, "kind": kind, "texts": texts, "theirs": theirs}
    print(json.dumps(case))


def literal(node):
    """The value of a literal, also in textwrap.dedent(...)."""
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "dedent":
        return textwrap.dedent(ast.literal_eval(node.args[0]))
    return ast.literal_eval(node)


def source(node):
    return ast.unparse(node)


def examples(folder):
    for path in sorted(folder.glob("doc/examples/cloud-config*.txt")):
        emit("cloud-init examples", path.name, "config", [path.read_text()], True)
    for path in sorted(folder.glob("doc/module-docs/*/example*.yaml")):
        name = f"{path.parent.name}/{path.name}"
        emit("cloud-init module examples", name, "config", [path.read_text()], True)
    for path in sorted(folder.glob("doc/examples/network-config-v*.yaml")):
        emit("cloud-init network examples", path.name, "network", [path.read_text()], True)


def parametrize(function):
    """Names and rows of the parameters that have a config."""
    for mark in function.decorator_list:
        if not isinstance(mark, ast.Call) or getattr(mark.func, "attr", "") != "parametrize":
            continue
        try:
            names = literal(mark.args[0])
        except (ValueError, IndexError):
            continue
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        if "config" in names and len(names) > 1 and isinstance(mark.args[1], (ast.List, ast.Tuple)):
            yield names, mark.args[1].elts


def schema_pairs(folder):
    for path in sorted(folder.glob("tests/unittests/config/test_cc_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            if "schema" not in node.name:
                continue
            for names, rows in parametrize(node):
                for number, row in enumerate(rows):
                    if isinstance(row, ast.Call) and row.args:
                        row = ast.Tuple(elts=row.args)
                    if not isinstance(row, ast.Tuple) or len(row.elts) != len(names):
                        continue
                    at = names.index("config")
                    try:
                        config = literal(row.elts[at])
                    except (ValueError, SyntaxError, TypeError):
                        continue
                    others = [source(one) for i, one in enumerate(row.elts) if i != at]
                    good = any(one == "None" or "does_not_raise" in one for one in others)
                    # What is deprecated still works.
                    good = good or any("schema deprecations" in one for one in others)
                    text = config if isinstance(config, str) else json.dumps(config)
                    name = f"{path.stem.removeprefix('test_cc_')}/{node.name}/{number}"
                    emit("cloud-init schema pairs", name, "config", ["#cloud-config\n" + text], good)


def network_configs(folder):
    path = folder / "tests/unittests/net/network_configs.py"
    spec = importlib.util.spec_from_file_location("network_configs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, config in sorted(module.NETWORK_CONFIGS.items()):
        for key in ("yaml", "yaml_v1", "yaml_v2"):
            if isinstance(config.get(key), str):
                text = textwrap.dedent(config[key])
                emit("cloud-init network cases", f"{name}/{key}", "network", [text], True)


def merges(folder):
    base = folder / "tests/data/merge_sources"
    for expected in sorted(base.glob("expected*.yaml")):
        number = expected.stem.removeprefix("expected")
        sources = sorted(base.glob(f"source{number}-*.yaml"))
        texts = [path.read_text() for path in sources]
        emit("cloud-init merge cases", expected.stem, "merge", texts, expected.read_text())


def netplan_tests(folder):
    for path in sorted(folder.glob("tests/generator/test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            calls = [
                call
                for call in ast.walk(node)
                if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "generate"
            ]
            if len(calls) != 1 or not calls[0].args:
                continue
            try:
                text = ast.literal_eval(calls[0].args[0])
            except ValueError:
                continue
            words = {word.arg: word.value for word in calls[0].keywords}
            if "confs" in words:
                continue
            fails = "expect_fail" in words and source(words["expect_fail"]) == "True"
            name = f"{path.stem.removeprefix('test_')}/{node.name}"
            emit("netplan tests", name, "network", [text], not fails)
    for path in sorted(folder.glob("examples/*.yaml")):
        emit("netplan examples", path.name, "network", [path.read_text()], True)


def main():
    folder = pathlib.Path(sys.argv[1])
    cloud_init, netplan = folder / "cloud-init", folder / "netplan"
    examples(cloud_init)
    schema_pairs(cloud_init)
    network_configs(cloud_init)
    merges(cloud_init)
    netplan_tests(netplan)


main()
