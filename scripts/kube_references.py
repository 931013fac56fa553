"""Reads `kubectl apply --dry-run=server -o json`, checks what an API server leaves to us, and writes the Pods that the
templates describe: an API server holds only Pods, not their templates, against a namespace's Pod security.

usage: kube_references.py all.json PODS_OUT.json

Checked: selectors of Services, disruption budgets and network policies find a Pod; ports that Services, probes and policies
name are its containers'; each container has probes, a memory limit and a read-only root; some policy denies all that no
other one allows.
"""

import json
import pathlib
import sys

PROBES = ("startupProbe", "livenessProbe")


def selects(selector: dict, labels: dict) -> bool:
    for expression in selector.get("matchExpressions", []):
        value, operator = labels.get(expression["key"]), expression["operator"]
        if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            raise SystemExit(f"kube_references: error: operator {operator} is not known here")
        inside = value is not None if "Exist" in operator else value in expression["values"]
        if inside != (operator in ("In", "Exists")):
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def check_container(owner: str, container: dict):
    """Yields what is wrong."""
    ports = {port["name"] for port in container.get("ports", [])}
    for name in PROBES:
        if name not in container:
            yield f"{owner}: no {name}"
    for name in (*PROBES, "readinessProbe"):
        port = container.get(name, {}).get("httpGet", {}).get("port")
        if isinstance(port, str) and port not in ports:
            yield f"{owner}: {name} asks port {port}, which the container does not name"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield f"{owner}: no memory limit"
    if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
        yield f"{owner}: readOnlyRootFilesystem is not true"


def ports_of(pods: list) -> list:
    return [port for pod in pods for container in pod["spec"]["containers"] for port in container.get("ports", [])]


def check_policy(name: str, spec: dict, pods: list):
    """Yields what is wrong. Ports are checked where the policy says which Pods of ours listen on them."""
    chosen = [pod for pod in pods if selects(spec["podSelector"], pod["metadata"]["labels"])]
    if not chosen:
        yield f"{name}: selects no Pod"
    rules = [(rule, chosen) for rule in spec.get("ingress", [])]
    for rule in spec.get("egress", []):
        for peer in rule.get("to", []):
            if "podSelector" in peer and "namespaceSelector" not in peer:
                rules.append((rule, [pod for pod in pods if selects(peer["podSelector"], pod["metadata"]["labels"])]))
    for rule, listeners in rules:
        numbers = {port["containerPort"] for port in ports_of(listeners)}
        for port in rule.get("ports", []):  # a range is for ports that nobody announces
            if "endPort" not in port and port["port"] not in numbers:
                yield f"{name}: port {port['port']} is no container's"


def check_objects(objects: list, pods: list):
    """Yields what is wrong."""
    denies_all = False
    for pod in pods:
        for container in pod["spec"]["containers"]:
            yield from check_container(pod["metadata"]["name"], container)
    for item in objects:
        name, spec = f"{item['kind']} {item['metadata']['name']}", item.get("spec", {})
        if item["kind"] == "Service":
            chosen = [pod for pod in pods if selects({"matchLabels": spec["selector"]}, pod["metadata"]["labels"])]
            named = {port["name"] for port in ports_of(chosen)}
            yield from (f"{name}: no Pod of its names port {port['targetPort']}" for port in spec["ports"] if port["targetPort"] not in named)
        elif item["kind"] == "PodDisruptionBudget":
            if not any(selects(spec["selector"], pod["metadata"]["labels"]) for pod in pods):
                yield f"{name}: selects no Pod"
        elif item["kind"] == "NetworkPolicy":
            yield from check_policy(name, spec, pods)
            denies_all |= spec["podSelector"] == {} and sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
    if not denies_all:
        yield "no NetworkPolicy for all Pods, of Ingress and Egress"


def pod_of(owner: dict) -> dict:
    """The Pod of a workload's template; what claims would bring is an emptyDir."""
    template = owner["spec"]["template"]
    claims = [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in owner["spec"].get("volumeClaimTemplates", [])]
    metadata = {"name": owner["metadata"]["name"] + "-0", "namespace": owner["metadata"]["namespace"],
                "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {**template["spec"], "volumes": template["spec"].get("volumes", []) + claims}}


def main() -> None:
    objects = json.loads(pathlib.Path(sys.argv[1]).read_text())["items"]
    pods = [pod_of(item) for item in objects if "template" in item.get("spec", {})]
    wrong = list(check_objects(objects, pods))
    for line in wrong:
        print(f"kube_references: error: {line}", file=sys.stderr)
    if wrong or not pods:
        raise SystemExit(1)
    pathlib.Path(sys.argv[2]).write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))


if __name__ == "__main__":
    main()
