"""Changes that make a manifest wrong. Each must be found, else the judge is of no use."""

import copy

import pods


def pod(docs, name):
    return next(spec for n, _, _, spec in pods.pods(docs) if n == name)


def container(docs, pod_name, name):
    return next(c for c in pods.containers(pod(docs, pod_name)) if c["name"] == name)


def policy(docs, name):
    return next(d for d in docs if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == name)


def one(docs, kind):
    return next(d for d in docs if d["kind"] == kind)


def mount(docs, pod_name, container_name, /, **what):
    container(docs, pod_name, container_name)["volumeMounts"].append(what)


def config(docs, old, new):
    doc = next(d for d in docs if d["kind"] == "ConfigMap" and "tokenward.yaml" in d["data"])
    assert old in doc["data"]["tokenward.yaml"], old
    doc["data"]["tokenward.yaml"] = doc["data"]["tokenward.yaml"].replace(old, new)


def writer(docs):
    return container(docs, "agent", "netfilter")


def moved(docs, to):
    """The container that writes the rules, at another place of the order."""
    start = pod(docs, "agent")["initContainers"]
    start.insert(to, start.pop(0))


def opened(docs):
    """The secrets are mounted into the agent."""
    mount(docs, "agent", "agent", name="secrets", mountPath="/run/secrets/tokenward", readOnly=True)


def exempt(docs):
    """The agent has the group that the rules let out."""
    container(docs, "agent", "agent")["securityContext"]["runAsGroup"] = 65532


ANYWHERE = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]
CHANGES = {
    "the agent has tokenward's user": ("sidecar", lambda d: container(d, "agent", "agent")["securityContext"].update(runAsUser=65532)),
    "the agent has tokenward's group": ("sidecar", lambda d: container(d, "agent", "agent")["securityContext"].update(runAsGroup=65532)),
    "the pod's group is tokenward's": ("sidecar", lambda d: pod(d, "agent")["securityContext"].update(fsGroup=65532)),
    "the pod shares its processes": ("sidecar", lambda d: pod(d, "agent").update(shareProcessNamespace=True)),
    "the node's network": ("gateway", lambda d: pod(d, "agent").update(hostNetwork=True)),
    "the node's processes": ("sidecar", lambda d: pod(d, "agent").update(hostPID=True)),
    "NET_ADMIN": ("sidecar", lambda d: container(d, "agent", "agent")["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
    "NET_RAW, for not all were dropped": ("gateway", lambda d: container(d, "agent", "agent")["securityContext"].update(capabilities={})),
    "root": ("gateway", lambda d: container(d, "tokenward", "tokenward")["securityContext"].update(runAsNonRoot=False)),
    "a root file system to write to": ("gateway", lambda d: container(d, "tokenward", "tokenward")["securityContext"].pop("readOnlyRootFilesystem")),
    "no seccomp": ("sidecar", lambda d: container(d, "agent", "agent")["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    "a token of the cluster": ("gateway", lambda d: pod(d, "agent").pop("automountServiceAccountToken")),
    "a folder of the node": ("gateway", lambda d: pod(d, "agent")["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    "the agent mounts the keys": ("sidecar", lambda d: mount(d, "agent", "agent", name="private", mountPath="/x", readOnly=True)),
    "the agent mounts the secrets": ("sidecar", lambda d: mount(d, "agent", "agent", name="secrets", mountPath="/x", readOnly=True)),
    "the agent mounts the configuration": ("sidecar", lambda d: mount(d, "agent", "agent", name="configuration", mountPath="/x", readOnly=True)),
    "the agent may write the certificates": ("sidecar", lambda d: container(d, "agent", "agent")["volumeMounts"][0].pop("readOnly")),
    "the helper mounts the keys": ("sidecar", lambda d: mount(d, "agent", "environment", name="private", mountPath="/x")),
    "the sidecar is an ordinary init container": ("sidecar", lambda d: container(d, "agent", "tokenward").pop("restartPolicy")),
    "nobody waits for the sidecar": ("sidecar", lambda d: container(d, "agent", "tokenward").pop("startupProbe")),
    "the health port moved": ("sidecar", lambda d: config(d, "0.0.0.0:9091", "0.0.0.0:9092")),
    "a drain that the pod does not wait for": ("gateway", lambda d: config(d, "timeout: 30s", "timeout: 90s")),
    "rules after tokenward": ("sidecar-transparent", lambda d: moved(d, 1)),
    "rules after everything": ("sidecar-transparent", lambda d: moved(d, 2)),
    "no rules": ("sidecar-transparent", lambda d: pod(d, "agent")["initContainers"].pop(0)),
    "the writer of the rules stays": ("sidecar-transparent", lambda d: writer(d).update(restartPolicy="Always")),
    "its failure is passed over": ("sidecar-transparent", lambda d: writer(d).update(command=["sh", "-c", "tokenward netfilter apply || true"])),
    "it has NET_RAW as well": ("sidecar-transparent", lambda d: writer(d)["securityContext"]["capabilities"]["add"].append("NET_RAW")),
    "it keeps root's capabilities": ("sidecar-transparent", lambda d: writer(d)["securityContext"]["capabilities"].pop("drop")),
    "it is privileged": ("sidecar-transparent", lambda d: writer(d)["securityContext"].update(privileged=True)),
    "it may gain privileges": ("sidecar-transparent", lambda d: writer(d)["securityContext"].update(allowPrivilegeEscalation=True)),
    "it mounts the secrets": ("sidecar-transparent", lambda d: mount(d, "agent", "netfilter", name="secrets", mountPath="/x", readOnly=True)),
    "it lets the agent's group out": ("sidecar-transparent", lambda d: writer(d)["args"].__setitem__(-1, "10001")),
    "it takes the rules away": ("sidecar-transparent", lambda d: writer(d)["args"].__setitem__(1, "remove")),
    "a variable that it might heed": ("sidecar-transparent", lambda d: writer(d).update(env=[{"name": "PATH", "value": "/tmp"}])),
    "a second writer beside the agent": ("sidecar-transparent", lambda d: pod(d, "agent")["containers"].append({**writer(d), "name": "again"})),
    "the agent is in the group that the rules let out": ("sidecar-transparent", lambda d: container(d, "agent", "agent")["securityContext"].update(runAsGroup=65532)),
    "the pod gives everybody that group": ("sidecar-transparent", lambda d: pod(d, "agent")["securityContext"].update(supplementalGroups=[65532])),
    "NET_ADMIN for tokenward": ("sidecar-transparent", lambda d: container(d, "agent", "tokenward")["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
    "SYS_PTRACE for the agent": ("sidecar-transparent", lambda d: container(d, "agent", "agent")["securityContext"]["capabilities"].update(add=["SYS_PTRACE"])),
    "nothing listens for IPv6": ("sidecar-transparent", lambda d: config(d, ', {address: "[::1]:15001", agent: coder}', "")),
    "two ports": ("sidecar-transparent", lambda d: config(d, "[::1]:15001", "[::1]:15002")),
    "a listener that the network reaches": ("sidecar-transparent", lambda d: config(d, "address: 127.0.0.1:15001", "address: 0.0.0.0:15001")),
    "nothing listens": ("sidecar-transparent", lambda d: config(d, "  transparent:", "  # transparent:")),
    "a namespace that admits everything": ("sidecar", lambda d: one(d, "Namespace")["metadata"]["labels"].update({"pod-security.kubernetes.io/enforce": "privileged"})),
    "no policy for agents": ("gateway", lambda d: [d.remove(policy(d, n)) for n in ("deny-all", "to-the-gateway")]),
    "agents may go anywhere": ("gateway", lambda d: policy(d, "to-the-gateway")["spec"].update(egress=ANYWHERE)),
    "agents may go anywhere, by one more policy": ("gateway", lambda d: d.append(
        {"kind": "NetworkPolicy", "metadata": {"name": "x", "namespace": "agents"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": ANYWHERE}})),
    "agents may use every port of the gateway": ("gateway-monitored", lambda d: [policy(d, "to-the-gateway")["spec"]["egress"][0].pop("ports"),
                                                                                policy(d, "gateway")["spec"]["ingress"][0].pop("ports")]),
    "nobody scrapes the gateway": ("gateway-monitored", lambda d: one(d, "ServiceMonitor")["spec"]["selector"].update(matchLabels={"x": "y"})),
    "its Service has no port for that": ("gateway-monitored", lambda d: [x for x in d if x["metadata"]["name"] == "tokenward-health"][0]["spec"]["ports"][0].update(name="x")),
    "a sidecar is scraped twice": ("sidecar-monitored", lambda d: d.append(copy.deepcopy(one(d, "PodMonitor")))),
    "agents may ask DNS": ("gateway", lambda d: policy(d, "to-the-gateway")["spec"]["egress"].append(policy(d, "gateway")["spec"]["egress"][0])),
    "everybody may call the gateway": ("gateway", lambda d: policy(d, "gateway")["spec"]["ingress"][0].pop("from")),
    "the gateway may ask for metadata": ("gateway", lambda d: policy(d, "gateway")["spec"]["egress"].extend(ANYWHERE)),
    "agents lost the gateway": ("gateway", lambda d: d.remove(policy(d, "to-the-gateway"))),
    "the gateway lost its resolver": ("gateway", lambda d: policy(d, "gateway")["spec"]["egress"].pop(0)),
    "no disruption budget": ("gateway", lambda d: d.remove(one(d, "PodDisruptionBudget"))),
    "two pods, one claim": ("gateway", lambda d: [x for x in d if x["metadata"]["name"] == "tokenward" and x["kind"] == "Deployment"][0]["spec"].update(replicas=2)),
    "replicas with a login": ("gateway-replicas", lambda d: config(d, "grant: client_credentials", "grant: authorization_code")),
    "replicas with a placeholder that must fit": ("gateway-replicas", lambda d: config(d, "{variable: ITEMS_TOKEN}", "{variable: ITEMS_TOKEN, mode: required}")),
    "replicas with a CA each": ("gateway-replicas", lambda d: config(d, "ca: {cert", "ca: {dir: /x}\nx: {cert")),
}


def judge(it, rendered):
    missed = []
    shapes = {"sidecar-monitored": ("sidecar", True, True), "sidecar-transparent": ("transparent", True, False), "sidecar": ("sidecar", True, False), "gateway": ("gateway", False, False), "gateway-replicas": ("gateway", False, False),
              "gateway-monitored": ("gateway", False, True)}
    for what, (overlay, change) in CHANGES.items():
        docs = copy.deepcopy(rendered[overlay])
        change(docs)
        if not [p for rule in pods.RULES for p in rule(docs)] and not list(pods.network(docs, *shapes[overlay])):
            missed.append(f"not found: {what} ({overlay})")
    it.note("every deliberately broken manifest is found out", missed, f"{len(CHANGES)} changes")


def second_network(file):
    """a second network that leads out"""
    file["services"]["agent"]["networks"].append("outside")


def open_network(file):
    """the network leads out"""
    file["networks"]["inside"] = {}


def keys(file):
    """the agent mounts the keys"""
    file["services"]["agent"]["volumes"].append("private:/x:ro")


def writes(file):
    """the agent may write the certificates"""
    file["services"]["agent"]["volumes"][0] = "public:/run/tokenward:rw"


def root(file):
    """the agent is root"""
    del file["services"]["agent"]["user"]


def same_group(file):
    """the agent has tokenward's group"""
    file["services"]["agent"]["user"] = "10001:65532"


def secret(file):
    """the agent has a secret"""
    file["services"]["agent"]["secrets"] = ["client.pem"]


def capabilities(file):
    """the agent keeps NET_RAW"""
    file["services"]["agent"]["cap_drop"] = ["SYS_ADMIN"]


def socket(file):
    """Docker's socket"""
    file["services"]["tokenward"]["volumes"].append("/var/run/docker.sock:/var/run/docker.sock:ro")


COMPOSE = (second_network, open_network, keys, writes, root, same_group, secret, capabilities, socket)
