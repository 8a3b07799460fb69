package podfile

// The part of Kubernetes' v1 Pod that is understood. A field that none of
// these types has isn't one of a Pod that we know, and is refused; those that
// are known and have no effect are of the types of audit.go.

type kubePod struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   kubeMeta `json:"metadata"`
	Spec       kubeSpec `json:"spec"`
	Status     silent   `json:"status"`
}

type kubeMeta struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`

	GenerateName    unhonoured `json:"generateName"`
	Finalizers      unhonoured `json:"finalizers"`
	OwnerReferences silent     `json:"ownerReferences"`

	UID                        silent `json:"uid"`
	SelfLink                   silent `json:"selfLink"`
	Generation                 silent `json:"generation"`
	ResourceVersion            silent `json:"resourceVersion"`
	CreationTimestamp          silent `json:"creationTimestamp"`
	DeletionTimestamp          silent `json:"deletionTimestamp"`
	DeletionGracePeriodSeconds silent `json:"deletionGracePeriodSeconds"`
	ManagedFields              silent `json:"managedFields"`
}

type kubeSpec struct {
	InitContainers []kubeContainer `json:"initContainers"`
	Containers     []kubeContainer `json:"containers"`
	Volumes        []kubeVolume    `json:"volumes"`

	RestartPolicy                 string       `json:"restartPolicy"`
	TerminationGracePeriodSeconds *int64       `json:"terminationGracePeriodSeconds"`
	Hostname                      string       `json:"hostname"`
	HostNetwork                   bool         `json:"hostNetwork"`
	HostPID                       bool         `json:"hostPID"`
	HostIPC                       bool         `json:"hostIPC"`
	HostUsers                     *bool        `json:"hostUsers"`
	ShareProcessNamespace         bool         `json:"shareProcessNamespace"`
	DNSPolicy                     string       `json:"dnsPolicy"`
	DNSConfig                     kubeDNS      `json:"dnsConfig"`
	HostAliases                   []kubeAlias  `json:"hostAliases"`
	RuntimeClassName              string       `json:"runtimeClassName"`
	SecurityContext               kubePodRules `json:"securityContext"`
	OS                            kubeOS       `json:"os"`

	EphemeralContainers          refused `json:"ephemeralContainers" why:"they are added to pods that run"`
	ResourceClaims               refused `json:"resourceClaims" why:"devices are not allocated here"`
	AutomountServiceAccountToken refused `json:"automountServiceAccountToken" why:"there are no service accounts here"`

	ServiceAccountName        unhonoured `json:"serviceAccountName" why:"there are no service accounts here"`
	ServiceAccount            unhonoured `json:"serviceAccount" why:"there are no service accounts here"`
	ImagePullSecrets          unhonoured `json:"imagePullSecrets" why:"credentials are in auth.d"`
	ActiveDeadlineSeconds     unhonoured `json:"activeDeadlineSeconds"`
	Subdomain                 unhonoured `json:"subdomain"`
	SetHostnameAsFQDN         unhonoured `json:"setHostnameAsFQDN"`
	HostnameOverride          unhonoured `json:"hostnameOverride"`
	Resources                 unhonoured `json:"resources" why:"limits are each container's"`
	Overhead                  unhonoured `json:"overhead"`
	ReadinessGates            unhonoured `json:"readinessGates"`
	NodeSelector              unhonoured `json:"nodeSelector"`
	NodeName                  unhonoured `json:"nodeName"`
	Affinity                  unhonoured `json:"affinity"`
	Tolerations               unhonoured `json:"tolerations"`
	SchedulerName             unhonoured `json:"schedulerName"`
	SchedulingGates           unhonoured `json:"schedulingGates"`
	SchedulingGroup           unhonoured `json:"schedulingGroup"`
	WorkloadRef               unhonoured `json:"workloadRef"`
	TopologySpreadConstraints unhonoured `json:"topologySpreadConstraints"`
	Priority                  unhonoured `json:"priority"`
	PriorityClassName         unhonoured `json:"priorityClassName"`
	PreemptionPolicy          unhonoured `json:"preemptionPolicy"`
	EnableServiceLinks        silent     `json:"enableServiceLinks"`
}

type kubeOS struct {
	Name string `json:"name"`
}

type kubeDNS struct {
	Nameservers []string `json:"nameservers"`
	Searches    []string `json:"searches"`
	Options     []struct {
		Name  string  `json:"name"`
		Value *string `json:"value"`
	} `json:"options"`
}

type kubeAlias struct {
	IP        string   `json:"ip"`
	Hostnames []string `json:"hostnames"`
}

type kubePodRules struct {
	RunAsUser                *int64       `json:"runAsUser"`
	RunAsGroup               *int64       `json:"runAsGroup"`
	RunAsNonRoot             *bool        `json:"runAsNonRoot"`
	FSGroup                  *int64       `json:"fsGroup"`
	SupplementalGroups       []int64      `json:"supplementalGroups"`
	SupplementalGroupsPolicy string       `json:"supplementalGroupsPolicy"`
	Sysctls                  []kubeSysctl `json:"sysctls"`
	SeccompProfile           *kubeProfile `json:"seccompProfile"`
	AppArmorProfile          *kubeProfile `json:"appArmorProfile"`
	SELinuxOptions           *kubeSELinux `json:"seLinuxOptions"`

	FSGroupChangePolicy unhonoured `json:"fsGroupChangePolicy"`
	SELinuxChangePolicy unhonoured `json:"seLinuxChangePolicy"`
	WindowsOptions      refused    `json:"windowsOptions" why:"this is a Linux node"`
}

type kubeRules struct {
	RunAsUser                *int64       `json:"runAsUser"`
	RunAsGroup               *int64       `json:"runAsGroup"`
	RunAsNonRoot             *bool        `json:"runAsNonRoot"`
	Privileged               bool         `json:"privileged"`
	ReadOnlyRootFilesystem   bool         `json:"readOnlyRootFilesystem"`
	AllowPrivilegeEscalation *bool        `json:"allowPrivilegeEscalation"`
	Capabilities             kubeCaps     `json:"capabilities"`
	ProcMount                string       `json:"procMount"`
	SeccompProfile           *kubeProfile `json:"seccompProfile"`
	AppArmorProfile          *kubeProfile `json:"appArmorProfile"`
	SELinuxOptions           *kubeSELinux `json:"seLinuxOptions"`
	WindowsOptions           refused      `json:"windowsOptions" why:"this is a Linux node"`
}

type kubeCaps struct {
	Add  []string `json:"add"`
	Drop []string `json:"drop"`
}

type kubeSysctl struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// kubeProfile is a seccomp or an AppArmor profile.
type kubeProfile struct {
	Type             string `json:"type"`
	LocalhostProfile string `json:"localhostProfile"`
}

type kubeSELinux struct {
	User  string `json:"user"`
	Role  string `json:"role"`
	Type  string `json:"type"`
	Level string `json:"level"`
}

type kubeContainer struct {
	Name            string        `json:"name"`
	Image           string        `json:"image"`
	ImagePullPolicy string        `json:"imagePullPolicy"`
	Command         []string      `json:"command"`
	Args            []string      `json:"args"`
	WorkingDir      string        `json:"workingDir"`
	Env             []kubeEnv     `json:"env"`
	Ports           []kubePort    `json:"ports"`
	Resources       kubeResources `json:"resources"`
	VolumeMounts    []kubeMount   `json:"volumeMounts"`
	Lifecycle       kubeLifecycle `json:"lifecycle"`
	SecurityContext kubeRules     `json:"securityContext"`
	Stdin           bool          `json:"stdin"`
	StdinOnce       bool          `json:"stdinOnce"`
	TTY             bool          `json:"tty"`

	EnvFrom       refused `json:"envFrom" why:"there are no ConfigMaps and Secrets here; write the variables out"`
	VolumeDevices refused `json:"volumeDevices" why:"there are no block volumes here"`
	RestartPolicy refused `json:"restartPolicy" why:"containers end once; a sidecar is one of spec.containers"`

	RestartPolicyRules       unhonoured `json:"restartPolicyRules"`
	LivenessProbe            unhonoured `json:"livenessProbe"`
	ReadinessProbe           unhonoured `json:"readinessProbe"`
	StartupProbe             unhonoured `json:"startupProbe"`
	ResizePolicy             unhonoured `json:"resizePolicy"`
	TerminationMessagePath   unhonoured `json:"terminationMessagePath"`
	TerminationMessagePolicy unhonoured `json:"terminationMessagePolicy"`
}

type kubeEnv struct {
	Name      string        `json:"name"`
	Value     string        `json:"value"`
	ValueFrom *kubeEnvValue `json:"valueFrom"`
}

type kubeEnvValue struct {
	FieldRef *kubeFieldRef `json:"fieldRef"`

	ResourceFieldRef refused `json:"resourceFieldRef" why:"write the value out"`
	ConfigMapKeyRef  refused `json:"configMapKeyRef" why:"there are no ConfigMaps here; write the value out"`
	SecretKeyRef     refused `json:"secretKeyRef" why:"there are no Secrets here; write the value out"`
	FileKeyRef       refused `json:"fileKeyRef" why:"write the value out"`
}

type kubeFieldRef struct {
	APIVersion string `json:"apiVersion"`
	FieldPath  string `json:"fieldPath"`
}

type kubePort struct {
	Name          string `json:"name"`
	ContainerPort int32  `json:"containerPort"`
	HostPort      int32  `json:"hostPort"`
	HostIP        string `json:"hostIP"`
	Protocol      string `json:"protocol"`
}

type kubeResources struct {
	Limits   map[string]Quantity `json:"limits"`
	Requests map[string]Quantity `json:"requests"`
	Claims   refused             `json:"claims" why:"devices are not allocated here"`
}

type kubeLifecycle struct {
	StopSignal string     `json:"stopSignal"`
	PostStart  unhonoured `json:"postStart"`
	PreStop    unhonoured `json:"preStop"`
}

type kubeMount struct {
	Name              string `json:"name"`
	MountPath         string `json:"mountPath"`
	SubPath           string `json:"subPath"`
	ReadOnly          bool   `json:"readOnly"`
	RecursiveReadOnly string `json:"recursiveReadOnly"`
	MountPropagation  string `json:"mountPropagation"`

	SubPathExpr refused `json:"subPathExpr" why:"write the path out as subPath"`
}

// kubeVolume has one source. The other kinds of sources need a cluster.
type kubeVolume struct {
	Name     string         `json:"name"`
	EmptyDir *kubeEmptyDir  `json:"emptyDir"`
	HostPath *kubeHostPath  `json:"hostPath"`
	Image    *kubeImageDisk `json:"image"`

	Secret                refused `json:"secret" why:"there are no Secrets here; use a hostPath"`
	ConfigMap             refused `json:"configMap" why:"there are no ConfigMaps here; use a hostPath"`
	Projected             refused `json:"projected" why:"there are no service account tokens, Secrets and ConfigMaps here"`
	DownwardAPI           refused `json:"downwardAPI" why:"there is no API server to ask"`
	PersistentVolumeClaim refused `json:"persistentVolumeClaim" why:"there are no claims here; use a hostPath"`
	Ephemeral             refused `json:"ephemeral" why:"there are no claims here; use an emptyDir"`
	CSI                   refused `json:"csi" why:"there are no volume drivers here"`
	NFS                   refused `json:"nfs" why:"there are no volume drivers here; mount it, and use a hostPath"`
	ISCSI                 refused `json:"iscsi" why:"there are no volume drivers here"`
	FC                    refused `json:"fc" why:"there are no volume drivers here"`
	GitRepo               refused `json:"gitRepo" why:"there are no volume drivers here"`
}

type kubeEmptyDir struct {
	Medium    string    `json:"medium"`
	SizeLimit *Quantity `json:"sizeLimit"`
}

type kubeHostPath struct {
	Path string `json:"path"`
	Type string `json:"type"`
}

type kubeImageDisk struct {
	Reference  string `json:"reference"`
	PullPolicy string `json:"pullPolicy"`
}
