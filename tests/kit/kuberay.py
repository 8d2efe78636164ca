"""What KubeRay and Kubernetes take in a manifest: pydantic models that refuse an unknown field, a wrong type or word, a missing field.

Kubernetes' parts are the models of its own Python client (package `kubernetes`, made from its OpenAPI document). KubeRay's parts are
its facts (names, types, words, limits, what is required) of ray.io/v1 as of KubeRay 1.7.0 (Apache-2.0, github.com/ray-project/kuberay:
ray-operator/apis/ray/v1/*_types.go, docs/reference/api.md; names and what must fit together: controllers/ray/utils/validation.go).
"""

import re
from typing import Annotated, Any, Literal, Self

import kubernetes.client as k8s
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Percent = Annotated[int, Field(ge=0, le=100)]
Texts = dict[str, str]
Manager = Literal["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]
DELETION = Literal["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]
NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)"
QUANTITY = rf"{NUMBER}([KMGTPE]i|[numkMGTPE]|[eE]{NUMBER})?"
Quantity = Annotated[str, StringConstraints(pattern=f"^{QUANTITY}$")]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class ScaleStrategy(Part):
    workersToDelete: list[str] = []


class WorkerGroupSpec(Part):
    groupName: str
    replicas: Int32 = 0
    minReplicas: Count
    maxReplicas: Count
    numOfHosts: Int32 = 1
    rayStartParams: Texts  # required before 1.7
    template: k8s.V1PodTemplateSpec
    idleTimeoutSeconds: Count | None = None
    priority: Int32 = 0
    resources: Texts = {}
    labels: Texts = {}
    scaleStrategy: ScaleStrategy | None = None
    suspend: bool | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.minReplicas > self.maxReplicas:
            raise ValueError(f"group {self.groupName}: minReplicas is above maxReplicas")
        return self


class IngressOptions(Part):
    host: str | None = None
    path: str | None = None
    pathType: Literal["Exact", "Prefix", "ImplementationSpecific"] | None = None
    tls: list[k8s.V1IngressTLS] = []


class HeadGroupSpec(Part):
    rayStartParams: Texts
    template: k8s.V1PodTemplateSpec
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] | None = None
    headService: k8s.V1Service | None = None
    enableIngress: bool | None = None
    ingressOptions: IngressOptions | None = None
    resources: Texts = {}
    labels: Texts = {}


class AutoscalerOptions(Part):
    version: Literal["v1", "v2"] | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    idleTimeoutSeconds: Count | None = None
    image: str | None = None
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    command: list[str] = []
    args: list[str] = []
    env: list[k8s.V1EnvVar] = []
    envFrom: list[k8s.V1EnvFromSource] = []
    volumeMounts: list[k8s.V1VolumeMount] = []
    resources: k8s.V1ResourceRequirements | None = None
    securityContext: k8s.V1SecurityContext | None = None


class RedisCredential(Part):
    value: str | None = None
    valueFrom: k8s.V1EnvVarSource | None = None


class GcsEmbeddedStorage(Part):
    claimName: str | None = None
    size: Quantity | None = None
    storageClassName: str | None = None
    accessModes: list[str] = []
    subPath: str | None = None
    deletionPolicy: Literal["DeleteWithCluster", "Retain"] | None = None


class GcsFaultToleranceOptions(Part):
    backend: Literal["redis", "rocksdb"] | None = None
    redisAddress: str | None = None
    redisUsername: RedisCredential | None = None
    redisPassword: RedisCredential | None = None
    externalStorageNamespace: str | None = None
    storage: GcsEmbeddedStorage | None = None


class AuthOptions(Part):
    mode: Literal["disabled", "token"] | None = None
    secretName: str | None = None
    enableK8sTokenAuth: bool | None = None


class TLSOptions(Part):
    enabled: bool | None = None


class NetworkPolicyRules(Part):
    ingressRules: list[k8s.V1NetworkPolicyIngressRule] = []
    egressRules: list[k8s.V1NetworkPolicyEgressRule] = []


class WorkerGroupNetworkPolicyRules(NetworkPolicyRules):
    groupName: str


class NetworkPolicyConfig(Part):
    mode: Literal["DenyAll", "DenyAllIngress", "DenyAllEgress"] | None = None
    head: NetworkPolicyRules | None = None
    worker: NetworkPolicyRules | None = None
    workerGroups: list[WorkerGroupNetworkPolicyRules] = []


class CollectorOptions(Part):
    image: str | None = None
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    resources: k8s.V1ResourceRequirements | None = None
    env: list[k8s.V1EnvVar] = []


class HistoryServerOptions(Part):
    collectorOptions: CollectorOptions | None = None


class RayClusterUpgradeStrategy(Part):
    type: Literal["Recreate", "None"] | None = None


class RayClusterSpec(Part):
    rayVersion: str | None = None
    headGroupSpec: HeadGroupSpec
    workerGroupSpecs: list[WorkerGroupSpec] = []
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    headServiceAnnotations: Texts = {}
    gcsFaultToleranceOptions: GcsFaultToleranceOptions | None = None
    historyServerOptions: HistoryServerOptions | None = None
    networkPolicy: NetworkPolicyConfig | None = None
    tlsOptions: TLSOptions | None = None
    authOptions: AuthOptions | None = None
    upgradeStrategy: RayClusterUpgradeStrategy | None = None
    managedBy: Manager | None = None
    suspend: bool | None = None

    @model_validator(mode="after")
    def _started_by_kuberay(self) -> Self:
        groups = [self.headGroupSpec, *self.workerGroupSpecs]
        if not all(group.template.spec and group.template.spec.containers for group in groups):
            raise ValueError("a group has no container")
        names = [group.groupName for group in self.workerGroupSpecs]
        if len(set(names)) < len(names):
            raise ValueError("two worker groups have one name")
        policies = {group.template.spec.restart_policy for group in groups}
        if self.enableInTreeAutoscaling and not policies <= {None, "Never"}:
            raise ValueError("restartPolicy: the autoscaler (version 2, the default from Ray 2.47 on) wants Never")
        return self


class DeletionPolicy(Part):
    policy: DELETION | None = None


class DeletionCondition(Part):
    jobStatus: str | None = None
    jobDeploymentStatus: str | None = None
    ttlSeconds: Count = 0


class DeletionRule(Part):
    policy: DELETION
    condition: DeletionCondition


class DeletionStrategy(Part):
    onSuccess: DeletionPolicy | None = None
    onFailure: DeletionPolicy | None = None
    deletionRules: Annotated[list[DeletionRule], Field(min_length=1)] | None = None


class SubmitterConfig(Part):
    backoffLimit: Count | None = None


class RayJobSpec(Part):
    entrypoint: str | None = None
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"
    rayClusterSpec: RayClusterSpec | None = None
    clusterSelector: Texts = {}
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: Count = 0
    backoffLimit: Count = 0
    activeDeadlineSeconds: Positive | None = None
    preRunningDeadlineSeconds: Positive | None = None
    runtimeEnvYAML: str | None = None
    jobId: str | None = None
    metadata: Texts = {}
    entrypointResources: str | None = None
    entrypointNumCpus: float = 0.0
    entrypointNumGpus: float = 0.0
    submitterPodTemplate: k8s.V1PodTemplateSpec | None = None
    submitterConfig: SubmitterConfig | None = None
    deletionStrategy: DeletionStrategy | None = None
    managedBy: Manager | None = None
    suspend: bool = False

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.rayClusterSpec is None and not self.clusterSelector:
            raise ValueError("one of rayClusterSpec and clusterSelector must be given")
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("ttlSecondsAfterFinished: nothing is shut down without shutdownAfterJobFinishes")
        if self.backoffLimit and (self.submissionMode == "InteractiveMode" or self.clusterSelector):
            raise ValueError("backoffLimit: not with InteractiveMode or clusterSelector")
        return self


class ClusterUpgradeOptions(Part):
    maxSurgePercent: Percent = 100
    stepSizePercent: Percent
    intervalSeconds: Positive
    gatewayClassName: str


class RayServiceUpgradeStrategy(Part):
    type: Literal["NewCluster", "NewClusterWithIncrementalUpgrade", "None"] | None = None
    clusterUpgradeOptions: ClusterUpgradeOptions | None = None


class RayServiceSpec(Part):
    serveConfigV2: str | None = None
    rayClusterConfig: RayClusterSpec
    serveService: k8s.V1Service | None = None
    upgradeStrategy: RayServiceUpgradeStrategy | None = None
    rayClusterDeletionDelaySeconds: Count | None = None
    excludeHeadPodFromServeSvc: bool = False
    serviceUnhealthySecondThreshold: Int32 | None = None
    deploymentUnhealthySecondThreshold: Int32 | None = None
    managedBy: Manager | None = None
    suspend: bool = False


class Resource(Part):
    apiVersion: Literal["ray.io/v1"]
    metadata: k8s.V1ObjectMeta

    @model_validator(mode="after")
    def _named(self) -> Self:
        """Kubernetes' services are named after it, and KubeRay appends to it: a DNS label of RFC 1035, of 47 characters."""
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", self.metadata.name or ""):
            raise ValueError(f"metadata.name: {self.metadata.name}: at most 47 of a-z, 0-9 and -, beginning with a letter")
        return self


class RayJob(Resource):
    kind: Literal["RayJob"]
    spec: RayJobSpec


class RayService(Resource):
    kind: Literal["RayService"]
    spec: RayServiceSpec


KINDS: dict[str, type[Resource]] = {"RayJob": RayJob, "RayService": RayService}
WORDS = {
    "V1Container.image_pull_policy": "Always|IfNotPresent|Never",
    "V1ContainerPort.protocol": "TCP|UDP|SCTP",
    "V1EmptyDirVolumeSource.medium": "Memory|HugePages(-.+)?|",
    "V1EmptyDirVolumeSource.size_limit": QUANTITY,
    "V1PodSpec.dns_policy": "ClusterFirst|ClusterFirstWithHostNet|Default|None",
    "V1PodSpec.restart_policy": "Always|OnFailure|Never",
    "V1ResourceRequirements.limits": QUANTITY,
    "V1ResourceRequirements.requests": QUANTITY,
    "V1Toleration.effect": "NoSchedule|PreferNoSchedule|NoExecute|",
    "V1Toleration.operator": "Exists|Equal",
}
"""What the API server takes of strings that Kubernetes' OpenAPI document leaves open (core/v1)."""


def check(manifest: Any) -> None:
    """Raise ValueError, which says where, unless KubeRay's and Kubernetes' schemas take the manifest."""
    kind = manifest.get("kind") if isinstance(manifest, dict) else manifest
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind: {kind} is none of {', '.join(KINDS)}")
    made = KINDS[kind].model_validate(manifest)
    # The client's models also take their own names for fields (`volume_mounts`), which the API server does not.
    if made.model_dump(by_alias=True, exclude_unset=True) != manifest:
        raise ValueError("a field has the name of the Python client, not of Kubernetes")
    _check_words(made)


def _check_words(made: BaseModel) -> None:
    for name in made.model_fields_set:
        field = f"{type(made).__name__}.{name}"
        for value in _values(getattr(made, name)):
            if isinstance(value, BaseModel):
                _check_words(value)
            elif isinstance(value, str) and field in WORDS and not re.fullmatch(WORDS[field], value):
                raise ValueError(f"{field}: {value} is not of {WORDS[field]}")


def _values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]
