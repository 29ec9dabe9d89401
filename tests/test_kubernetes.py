"""What infra/kubernetes renders is what Kubernetes and KubeRay take, and safe to run."""

import ipaddress
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from operators.catalog import check_document
from schemas.config import ServedConfig

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "infra/kubernetes"
OVERLAYS = ("enrich", "nightly", "serve")
VERSION = "1.32"  # of Kubernetes
KUBERAY = yaml.safe_load((ROOT / "tests/data/kuberay.yaml").read_text())
METADATA_SERVICE = ipaddress.ip_address("169.254.169.254")
Document = dict[str, Any]


@pytest.fixture(params=OVERLAYS)
def documents(request) -> list[Document]:
    return rendered(request.param)


def rendered(overlay: str) -> list[Document]:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl, which renders the overlays, is not on this machine")
    command = ["kubectl", "kustomize", KUBERNETES / overlay]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def written() -> list[Document]:
    """The documents as they are written, which needs no kubectl; a schedule has no job yet."""
    names = ("base/namespace", "base/network-policies", "enrich/rayjob", "serve/deployment")
    files = [KUBERNETES / f"{name}.yaml" for name in names]
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


def validate(document: Document) -> None:
    """Raises where Kubernetes or KubeRay would refuse a document, or drop a name of it."""
    if document["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(document, VERSION, strict=True)
        return
    jsonschema.validate(document, KUBERAY)
    for template in templates(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, VERSION, strict=True)


def templates(value: Any) -> Iterator[Document]:
    """All pod templates in a document, however deep."""
    if isinstance(value, dict):
        if "containers" in value.get("spec", {}):
            yield value
        for inner in value.values():
            yield from templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from templates(inner)


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def cluster_of(documents: list[Document]) -> Document:
    jobs = [document["spec"] for document in of_kind(documents, "RayJob")]
    jobs += [document["spec"]["jobTemplate"] for document in of_kind(documents, "RayCronJob")]
    return jobs[0]["rayClusterSpec"]


def test_every_document_is_what_kubernetes_and_kuberay_take(documents):
    for document in documents:
        validate(document)


@pytest.mark.parametrize("document", written(), ids=lambda document: document["kind"])
def test_what_is_written_is_valid_before_it_is_rendered(document):
    validate(document)


def change(document: Document, path: str, value: Any) -> Document:
    changed = json.loads(json.dumps(document))
    inner = changed
    *way, last = path.split(".")
    for name in way:
        inner = inner[int(name) if name.isdigit() else name]
    inner[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.rayClusterSpec.workerGroupSpecs.0.minReplica", 0),
        ("spec.rayClusterSpec.authOptions.mode", "tokens"),
        ("spec.shutdownAfterJobFinishes", True),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.readOnly", True),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.image", 7),
    ],
)
def test_a_wrong_name_or_type_in_a_rayjob_is_refused(path, value):
    (job,) = of_kind(written(), "RayJob")
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(change(job, path, value))


def test_no_pod_is_more_than_it_must_be():
    for document in written():
        for template in templates(document):
            pod = template["spec"]
            assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "tagline"
            assert pod["securityContext"]["runAsNonRoot"]
            assert pod["securityContext"]["runAsUser"] == 1000  # as in the Dockerfile
            is_head = pod["containers"][0]["name"] == "ray-head"  # its autoscaler asks the API
            assert is_head or pod["automountServiceAccountToken"] is False
            for container in pod["containers"]:
                context = container["securityContext"]
                assert context["readOnlyRootFilesystem"]
                assert context["allowPrivilegeEscalation"] is False
                assert context["capabilities"] == {"drop": ["ALL"]}
                assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
                mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
                assert {"/tmp", "/home/ray"} <= mounted  # what Ray and the models are written to


def test_no_network_policy_lets_a_pod_reach_the_metadata_service():
    blocks = [
        peer["ipBlock"]
        for policy in of_kind(written(), "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for peer in rule.get("to") or pytest.fail("a rule without `to` lets through to all")
        if "ipBlock" in peer
    ]
    assert blocks
    for block in blocks:
        inside = METADATA_SERVICE in ipaddress.ip_network(block["cidr"])
        outside = any(
            METADATA_SERVICE in ipaddress.ip_network(one) for one in block.get("except", [])
        )
        assert outside or not inside


@pytest.mark.parametrize("overlay", ["enrich", "nightly"])
def test_a_job_is_read_by_tagline_and_run_on_the_pinned_ray_with_a_token(overlay):
    documents = rendered(overlay)
    cluster = cluster_of(documents)
    assert cluster["authOptions"] == {"mode": "token", "secretName": "tagline-ray-token"}
    assert f'"ray[data,serve]=={cluster["rayVersion"]}"' in (ROOT / "pyproject.toml").read_text()
    (given,) = of_kind(documents, "ConfigMap")
    assert check_document(yaml.safe_load(given["data"]["job.yaml"])).operators
    kinds = {document["kind"] for document in documents}
    assert ("RayJob" in kinds, "RayCronJob" in kinds) == (overlay == "enrich", overlay == "nightly")


def test_the_job_may_grow_to_what_its_worker_groups_may():
    (job,) = of_kind(written(), "RayJob")
    config = check_document(yaml.safe_load((KUBERNETES / "enrich/job.yaml").read_text()))
    machines = config.resources.machines
    assert machines
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        found = (group["maxReplicas"], float(limits["cpu"]), float(limits["nvidia.com/gpu"]))
        assert found == (machines.count, machines.cpus, machines.gpus)
        assert group["minReplicas"] == 0


def test_the_server_reads_its_config_and_is_asked_where_it_listens():
    config = yaml.safe_load((KUBERNETES / "serve/serve.yaml").read_text())
    served = ServedConfig.model_validate(config).serve
    (deployment,) = of_kind(written(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [served.port]
    assert served.host == "0.0.0.0"
    assert pod["terminationGracePeriodSeconds"] > served.timeout.total_seconds()
