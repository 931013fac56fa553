"""Turns an API server's /openapi/v2 into one strict JSON schema for each kind, for kubeconform.

usage: kubeconform_schemas.py openapi.json OUT_DIR
"""

import json
import pathlib
import sys


def strict(schema: dict, definitions: dict, seen: tuple = ()) -> dict:
    """References inlined, unknown properties refused; recursive types stay open."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/definitions/")
        if name in seen:
            return {}
        return strict(definitions[name], definitions, seen + (name,))
    if schema.get("format") == "int-or-string":
        return {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    if schema.get("type") == "string" and "Quantity" in str(seen[-1:]):
        return {"oneOf": [{"type": "string"}, {"type": "number"}]}
    out = {key: value for key, value in schema.items() if key in ("type", "required", "enum", "format")}
    if "items" in schema:
        out["items"] = strict(schema["items"], definitions, seen)
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = strict(schema["additionalProperties"], definitions, seen)
    if "properties" in schema:
        out["properties"] = {key: strict(value, definitions, seen) for key, value in schema["properties"].items()}
        out.setdefault("additionalProperties", False)
    return out


def main() -> None:
    document = json.loads(pathlib.Path(sys.argv[1]).read_text())
    out = pathlib.Path(sys.argv[2])
    out.mkdir(parents=True)
    for name, definition in document["definitions"].items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            # As kubeconform's {{.ResourceKind}}{{.KindSuffix}} names them: the group's first word, none for the core group.
            group = f"-{kind['group'].split('.')[0]}" if kind["group"] else ""
            file = out / f"{kind['kind'].lower()}{group}-{kind['version']}.json"
            if len(definition.get("x-kubernetes-group-version-kind", [])) == 1:
                file.write_text(json.dumps(strict(definition, document["definitions"], (name,))))


if __name__ == "__main__":
    main()
