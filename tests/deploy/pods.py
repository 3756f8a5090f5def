"""What holds of rendered manifests: who runs as whom with which files (A07 of the attacks), what the network lets through,
when there may be more than one tokenward. Pure functions over documents; each returns what is wrong."""

import ipaddress

import yaml

# The one container that may be root, and have a capability: it writes the pod's rules and ends before anything else starts.
INIT = "tokenward-init"
OWN_IMAGES = ("tokenward", INIT, "docker.io/library/busybox")
VOLUMES = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
OUTSIDE, METADATA, PRIVATE, API = "203.0.113.7", "169.254.169.254", "10.20.30.40", "10.96.0.1"


def named(image):
    return image.rsplit(":", 1)[0]


def pods(docs):
    """Every pod that a document describes: its name, its namespace, labels and specification."""
    for doc in docs:
        if doc["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            template = doc["spec"]["template"]
            yield doc["metadata"]["name"], doc["metadata"].get("namespace"), template["metadata"]["labels"], template["spec"]
        elif doc["kind"] == "Pod":
            yield doc["metadata"]["name"], doc["metadata"].get("namespace"), doc["metadata"].get("labels", {}), doc["spec"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def ours(container):
    return named(container["image"]) in OWN_IMAGES


def hardened(docs):
    """Pod Security `restricted`, and more: no root file system to write to, no token of the cluster, bounded memory."""
    for name, namespace, _, spec in pods(docs):
        where = f"{namespace}/{name}"
        for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if spec.get(key, False):
                yield f"{where}: {key}"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{where}: mounts a token of the cluster"
        for volume in spec.get("volumes", []):
            if set(volume) - {"name"} - VOLUMES:
                yield f"{where}: volume {volume['name']} is of a kind that is not allowed"
        of_pod = spec.get("securityContext", {})
        for c in containers(spec):
            at, context = f"{where}/{c['name']}", {**of_pod, **c.get("securityContext", {})}
            if named(c["image"]) == INIT:
                continue  # `ruled` is about it
            wanted = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                      "seccompProfile": {"type": "RuntimeDefault"}, "capabilities": {"drop": ["ALL"]}}
            for key, value in wanted.items():
                if context.get(key) != value:
                    yield f"{at}: {key} is {context.get(key)!r}, not {value!r}"
            if context.get("privileged") or context.get("procMount") not in (None, "Default"):
                yield f"{at}: privileged"
            if not context.get("runAsUser") or not context.get("runAsGroup"):
                yield f"{at}: no user or group of its own"
            if any("hostPort" in p for p in c.get("ports", [])):
                yield f"{at}: a port of the node"
            if "memory" not in c.get("resources", {}).get("limits", {}):
                yield f"{at}: memory without a limit"


def ruled(docs):
    """A pod whose rules are written by an init container: that it is the first, ends, and has no more than it needs; that the group which
    the rules let out is tokenward's; that they lead to where tokenward listens. And no namespace admits more than its pods need."""
    for name, namespace, _, spec in pods(docs):
        where, start = f"{namespace}/{name}", spec.get("initContainers", [])
        writers = [c for c in containers(spec) if named(c["image"]) == INIT]
        level = next((d["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] for d in docs
                      if d["kind"] == "Namespace" and d["metadata"]["name"] == namespace), None)
        if level != ("privileged" if writers else "restricted"):
            yield f"{where}: Pod Security of its namespace is {level}"
        house = [c for c in containers(spec) if named(c["image"]) == "tokenward"]
        listen = yaml.safe_load(config_of(docs, spec))["listen"] if house else {}
        if bool(writers) != ("transparent" in listen):
            yield f"{where}: rules without a listener, or a listener without rules"
        if not writers:
            continue
        if writers != start[:1] or "restartPolicy" in writers[0]:
            yield f"{where}: the rules are not written by the first init container alone, before anything else starts"
        groups = {str(c["securityContext"]["runAsGroup"]) for c in house}
        if writers[0].get("args") != ["netfilter", "apply", "--shape", "sidecar", "--exempt-gid", *groups] or "command" in writers[0] or "env" in writers[0]:
            yield f"{where}: its init container does something else, or lets out another group than tokenward's"
        wanted = {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False, "privileged": False, "allowPrivilegeEscalation": False,
                  "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "seccompProfile": {"type": "RuntimeDefault"}}
        if writers[0].get("securityContext") != wanted or "memory" not in writers[0].get("resources", {}).get("limits", {}):
            yield f"{where}: its init container has more, or less, than NET_ADMIN"
        mounts = [m for c in house for m in c["volumeMounts"] if m["mountPath"] == "/etc/tokenward"]
        if writers[0].get("volumeMounts") != mounts or not all(m.get("readOnly") for m in mounts):
            yield f"{where}: its init container mounts more than the configuration"
        at = [each if isinstance(each, dict) else {"address": each} for each in listen.get("transparent", [])]
        hosts, ports = {each["address"].rpartition(":")[0] for each in at}, {each["address"].rpartition(":")[2] for each in at}
        if hosts != {"127.0.0.1", "[::1]"} or len(ports) != 1:
            yield f"{where}: not one port for redirected connections, at both families' loopback"


def apart(docs):
    """A07: no agent has tokenward's user or group, or a file of it that is not public."""
    for name, namespace, _, spec in pods(docs):
        where = f"{namespace}/{name}"
        house = [c for c in containers(spec) if named(c["image"]) == "tokenward"]
        # Whoever has the group that the rules let out goes around them; so has whoever may become it.
        helpers = [c for c in containers(spec) if ours(c)]
        agents = [c for c in containers(spec) if not ours(c)]
        users = {c["securityContext"]["runAsUser"] for c in helpers} | {65532}
        groups = {c["securityContext"]["runAsGroup"] for c in helpers} | {65532}
        pod_wide = spec.get("securityContext", {})
        if agents and groups & {pod_wide.get("fsGroup"), *pod_wide.get("supplementalGroups", [])}:
            yield f"{where}: the pod's group puts the agent into tokenward's"
        volumes = {v["name"]: v for v in spec.get("volumes", [])}
        secret = {m["name"] for c in house for m in c.get("volumeMounts", []) if not m["mountPath"] == "/run/tokenward"}
        for c in agents:
            at, context = f"{where}/{c['name']}", c.get("securityContext", {})
            if context.get("runAsUser") in users or context.get("runAsGroup") in groups:
                yield f"{at}: runs as tokenward"
            for mount in c.get("volumeMounts", []):
                volume = volumes[mount["name"]]
                if mount["name"] in secret or volume.get("secret", {}).get("secretName", "").startswith("tokenward"):
                    yield f"{at}: mounts {mount['name']}, which is tokenward's"
                shared = any(m["name"] == mount["name"] for other in helpers for m in other.get("volumeMounts", []))
                if shared and not mount.get("readOnly"):
                    yield f"{at}: may write {mount['name']}"
        for c in helpers:
            if c not in house and named(c["image"]) != INIT and any(m["name"] in secret for m in c.get("volumeMounts", [])):
                yield f"{where}/{c['name']}: mounts what is tokenward's"
        if agents and house:
            first = [c["name"] for c in spec.get("initContainers", []) if c in house and c.get("restartPolicy") == "Always" and "startupProbe" in c]
            if first != [c["name"] for c in house]:
                yield f"{where}: tokenward is no native sidecar that is ready before the agent starts"


def config_of(docs, spec):
    """The tokenward.yaml that a pod's tokenward reads, as text."""
    name = next(v["configMap"]["name"] for v in spec["volumes"] if "configMap" in v and v["configMap"]["name"].startswith("tokenward"))
    return next(d["data"]["tokenward.yaml"] for d in docs if d["kind"] == "ConfigMap" and d["metadata"]["name"] == name)


def probed(docs):
    """Ports and probes are those of the configuration; the pod's end leaves time for every step of ours."""
    for name, namespace, _, spec in pods(docs):
        for c in containers(spec):
            if named(c["image"]) != "tokenward":
                continue
            where, config = f"{namespace}/{name}", yaml.safe_load(config_of(docs, spec))
            ports = {p["name"]: p["containerPort"] for p in c["ports"]}
            if ports["health"] != int(config["health"].rsplit(":", 1)[1]):
                yield f"{where}: the port `health` is not that of tokenward.yaml"
            for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
                if c.get(probe, {}).get("httpGet") != {"path": path, "port": "health"}:
                    yield f"{where}: {probe} does not ask {path}"
            drain = config.get("drain", {})
            seconds = sum(int(drain.get(key, default)[:-1]) for key, default in (("timeout", "30s"), ("pre_stop", "0s"))) + 15 + 5
            if spec.get("terminationGracePeriodSeconds", 30) < seconds:
                yield f"{where}: ends after {spec.get('terminationGracePeriodSeconds', 30)} s, tokenward may need {seconds}"
            services = [d for d in docs if d["kind"] == "Service" and d["metadata"].get("namespace") == namespace]
            for service in services:
                if service["spec"].get("clusterIP") == "None" and {p["targetPort"] for p in service["spec"]["ports"]} == {"health"}:
                    continue  # for Prometheus, which policies let in
                if {p["targetPort"] for p in service["spec"]["ports"]} != {"proxy"} or ports["proxy"] != service["spec"]["ports"][0]["port"]:
                    yield f"{where}: its Service shows another port than the proxy's"


def replicas(docs):
    """More than one tokenward only where nothing has to be shared."""
    for doc in docs:
        if doc["kind"] != "Deployment" or not any(named(c["image"]) == "tokenward" for c in doc["spec"]["template"]["spec"]["containers"]):
            continue
        name, namespace, spec = doc["metadata"]["name"], doc["metadata"]["namespace"], doc["spec"]
        scaled = any(d["kind"] == "HorizontalPodAutoscaler" and d["spec"]["scaleTargetRef"]["name"] == name for d in docs)
        budgets = [d for d in docs if d["kind"] == "PodDisruptionBudget" and d["metadata"]["namespace"] == namespace
                   and matches(d["spec"]["selector"], spec["template"]["metadata"]["labels"])]
        if len(budgets) != 1:
            yield f"{name}: {len(budgets)} disruption budgets"
        if not scaled and spec.get("replicas", 1) == 1:
            if spec["strategy"]["type"] != "Recreate":
                yield f"{name}: a second pod would start while the first has the claim"
            continue
        config = yaml.safe_load(config_of(docs, spec["template"]["spec"]))
        for service, settings in config["services"].items():
            credential = settings.get("credential", "none")
            grant = credential.get("oauth", {}).get("grant") if isinstance(credential, dict) else None
            if isinstance(credential, dict) and "oauth" in credential and grant != "client_credentials":
                yield f"{name}: several replicas, and {service} has the grant {grant}"
            if settings.get("placeholder", {}).get("mode") == "required":
                yield f"{name}: several replicas, and {service} wants a placeholder, which is another's on each"
        if config.get("store", "memory") != "memory" or "dir" in config.get("ca", {"dir": ""}):
            yield f"{name}: several replicas, and each would have its own CA or all one store"
        if any("persistentVolumeClaim" in v for v in spec["template"]["spec"]["volumes"]):
            yield f"{name}: several replicas, one claim"


def watched(docs):
    """Where there are monitors, each tokenward is the target of one of them."""
    monitors = [d for d in docs if d["kind"] in ("PodMonitor", "ServiceMonitor")]
    for name, namespace, labels, spec in pods(docs) if monitors else ():
        if not any(named(c["image"]) == "tokenward" for c in containers(spec)):
            continue
        behind = [d for d in docs if d["kind"] == "Service" and d["metadata"]["namespace"] == namespace
                  and matches({"matchLabels": d["spec"]["selector"]}, labels)]
        targets = []
        for m in monitors:
            ports = {e["port"] for e in m["spec"].get("podMetricsEndpoints", m["spec"].get("endpoints"))}
            if namespace not in m["spec"]["namespaceSelector"]["matchNames"]:
                continue
            if m["kind"] == "PodMonitor":
                targets += [p for p in ports if matches(m["spec"]["selector"], labels)]
            else:
                targets += [s for s in behind if matches(m["spec"]["selector"], s["metadata"].get("labels", {}))
                            and ports & {p["name"] for p in s["spec"]["ports"] if p["targetPort"] == "health"}]
        if len(targets) != 1:
            yield f"{namespace}/{name}: is scraped {len(targets)} times"


RULES = (hardened, ruled, apart, probed, replicas, watched)


# The network


def matches(selector, labels):
    """A label selector; what it can say and this does not know is an error."""
    if set(selector) - {"matchLabels", "matchExpressions"}:
        raise ValueError(f"a selector with {sorted(selector)}")
    for e in selector.get("matchExpressions", []):
        if e["operator"] != "In":
            raise ValueError(f"the operator {e['operator']}")
        if labels.get(e["key"]) not in e["values"]:
            return False
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())


def peer_fits(peer, own_namespace, end, namespaces):
    if "ipBlock" in peer:
        if "ip" not in end:
            return False
        address, block = ipaddress.ip_address(end["ip"]), peer["ipBlock"]
        inside = lambda net: address.version == ipaddress.ip_network(net).version and address in ipaddress.ip_network(net)  # noqa: E731
        return inside(block["cidr"]) and not any(inside(net) for net in block.get("except", []))
    if "ip" in end:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], namespaces.get(end["namespace"], {})):
            return False
    elif end["namespace"] != own_namespace:
        return False
    return matches(peer.get("podSelector", {}), end["labels"])


def side(policies, way, own, other, namespaces, protocol, port):
    """Whether one end's policies let a connection through. Without a policy for it everything passes."""
    if "ip" in own:
        return True
    mine = [p for p in policies if p["metadata"]["namespace"] == own["namespace"] and way.capitalize() in p["spec"]["policyTypes"]
            and matches(p["spec"]["podSelector"], own["labels"])]
    if not mine:
        return True
    for policy in mine:
        for rule in policy["spec"].get(way) or []:
            to = rule.get("to" if way == "egress" else "from")
            ports = rule.get("ports")
            if (not to or any(peer_fits(p, own["namespace"], other, namespaces) for p in to)) and (
                    not ports or any(p.get("protocol", "TCP") == protocol and p.get("port", port) == port for p in ports)):
                return True
    return False


def passes(docs, source, target, port, protocol="TCP"):
    """Whether the policies let a connection through, at both ends."""
    policies = [d for d in docs if d["kind"] == "NetworkPolicy"]
    namespaces = {d["metadata"]["name"]: {**d["metadata"].get("labels", {}), "kubernetes.io/metadata.name": d["metadata"]["name"]}
                  for d in docs if d["kind"] == "Namespace"}
    namespaces |= {n: {"kubernetes.io/metadata.name": n} for n in ("kube-system", "monitoring", "elsewhere")}
    return (side(policies, "egress", source, target, namespaces, protocol, port)
            and side(policies, "ingress", target, source, namespaces, protocol, port))


def network(docs, shape, dns, monitored):
    """Every way that matters, and whether it is open."""
    labels = {name: (namespace, labels) for name, namespace, labels, _ in pods(docs)}
    pod = lambda namespace, **of: {"namespace": namespace, "labels": {k.replace("__", "/").replace("_", "."): v for k, v in of.items()}}  # noqa: E731
    agent = {"namespace": labels["agent"][0], "labels": labels["agent"][1]}
    resolver = {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    other, prometheus, stranger = pod("agents", x="y"), pod("monitoring", x="y"), pod("elsewhere", x="y")
    ip = lambda address: {"ip": address}  # noqa: E731
    ways = [("the agent to the cloud's metadata", agent, ip(METADATA), 80, "TCP", False),
            ("the agent to a private address", agent, ip(PRIVATE), 443, "TCP", False),
            ("the agent to the API server", agent, ip(API), 443, "TCP", False),
            ("the agent by QUIC", agent, ip(OUTSIDE), 443, "UDP", False),
            ("the agent to an API in clear", agent, ip(OUTSIDE), 80, "TCP", False),
            ("the agent to a foreign resolver", agent, ip("8.8.8.8"), 53, "UDP", False),
            ("the agent to an embedded private address", agent, ip("2002:a00:1::1"), 443, "TCP", False),
            ("the agent to another pod", agent, other, 8080, "TCP", False),
            ("another pod to the agent", other, agent, 8080, "TCP", False),
            ("a stranger to the agent", stranger, agent, 9091, "TCP", False)]
    if shape in ("sidecar", "transparent"):
        # tokenward is in the agent's pod, so these are open to both. The page says so.
        ways += [("the pod to an API", agent, ip(OUTSIDE), 443, "TCP", True),
                 ("the pod to the cluster's resolver", agent, resolver, 53, "UDP", True),
                 ("Prometheus to the pod", prometheus, agent, 9091, "TCP", monitored)]
    else:
        gateway = {"namespace": labels["tokenward"][0], "labels": labels["tokenward"][1]}
        ways += [("the agent to the gateway", agent, gateway, 8443, "TCP", True),
                 ("the agent to the gateway's health port", agent, gateway, 9091, "TCP", False),
                 ("the agent to an API", agent, ip(OUTSIDE), 443, "TCP", False),
                 ("the agent to an API over IPv6", agent, ip("2606:4700::1"), 443, "TCP", False),
                 ("the agent to the cluster's resolver", agent, resolver, 53, "UDP", dns),
                 ("the agent to the cluster's resolver by TCP", agent, resolver, 53, "TCP", dns),
                 ("another agent to the gateway", other, gateway, 8443, "TCP", True),
                 ("a stranger to the gateway", stranger, gateway, 8443, "TCP", False),
                 ("a stranger to the gateway's health port", stranger, gateway, 9091, "TCP", False),
                 ("Prometheus to the gateway", prometheus, gateway, 9091, "TCP", monitored),
                 ("Prometheus to the proxy", prometheus, gateway, 8443, "TCP", False),
                 ("the gateway to an API", gateway, ip(OUTSIDE), 443, "TCP", True),
                 ("the gateway to an API over IPv6", gateway, ip("2606:4700::1"), 443, "TCP", True),
                 ("the gateway to the resolver", gateway, resolver, 53, "UDP", True),
                 ("the gateway to the cloud's metadata", gateway, ip(METADATA), 80, "TCP", False),
                 ("the gateway to link-local TLS", gateway, ip(METADATA), 443, "TCP", False),
                 ("the gateway to a private address", gateway, ip(PRIVATE), 443, "TCP", False)]
    for what, source, target, port, protocol, wanted in ways:
        if passes(docs, source, target, port, protocol) != wanted:
            yield f"{what}: {'closed' if wanted else 'open'}"
    for namespace in {ns for _, ns, _, _ in pods(docs)}:
        if passes(docs, pod(namespace, unheard="of"), ip(METADATA), 80) or passes(docs, stranger, pod(namespace, unheard="of"), 1):
            yield f"a pod of {namespace} with other labels has an open network"
