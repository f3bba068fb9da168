//! Messages of CRI v1 (`runtime.v1`), as far as this bridge sends or reads them. Names and numbers are those of the published `api.proto`;
//! what is left out here is left out on the wire, and skipped where it comes in.

use std::collections::HashMap;

/// Defines messages: `name { field: kind = tag }`, the kinds as prost calls them.
macro_rules! messages {
    ($($name:ident { $($field:ident: $rust:ty [$($kind:tt)+];)* })*) => {
        $(
            #[derive(Clone, PartialEq, prost::Message)]
            pub(crate) struct $name {
                $(#[prost($($kind)+)] pub(crate) $field: $rust,)*
            }
        )*
    };
}

messages! {
    Empty {}
    VersionResponse {
        runtime_name: String [string, tag = "2"];
        runtime_version: String [string, tag = "3"];
    }
    StatusRequest { verbose: bool [bool, tag = "1"]; }
    StatusResponse {
        status: Option<RuntimeStatus> [message, optional, tag = "1"];
        info: HashMap<String, String> [map = "string, string", tag = "2"];
    }
    RuntimeStatus { conditions: Vec<RuntimeCondition> [message, repeated, tag = "1"]; }
    RuntimeCondition {
        kind: String [string, tag = "1"];
        status: bool [bool, tag = "2"];
        reason: String [string, tag = "3"];
        message: String [string, tag = "4"];
    }
    Int64Value { value: i64 [int64, tag = "1"]; }
    UInt64Value { value: u64 [uint64, tag = "1"]; }

    PodSandboxMetadata {
        name: String [string, tag = "1"];
        uid: String [string, tag = "2"];
        namespace: String [string, tag = "3"];
        attempt: u32 [uint32, tag = "4"];
    }
    PodSandboxConfig {
        metadata: Option<PodSandboxMetadata> [message, optional, tag = "1"];
        hostname: String [string, tag = "2"];
        log_directory: String [string, tag = "3"];
        labels: HashMap<String, String> [map = "string, string", tag = "6"];
        annotations: HashMap<String, String> [map = "string, string", tag = "7"];
        linux: Option<LinuxPodSandboxConfig> [message, optional, tag = "8"];
    }
    LinuxPodSandboxConfig {
        cgroup_parent: String [string, tag = "1"];
        security_context: Option<LinuxSandboxSecurityContext> [message, optional, tag = "2"];
        sysctls: HashMap<String, String> [map = "string, string", tag = "3"];
    }
    LinuxSandboxSecurityContext {
        namespace_options: Option<NamespaceOption> [message, optional, tag = "1"];
        privileged: bool [bool, tag = "6"];
        seccomp: Option<SecurityProfile> [message, optional, tag = "9"];
    }
    NamespaceOption {
        network: i32 [int32, tag = "1"];
        pid: i32 [int32, tag = "2"];
        ipc: i32 [int32, tag = "3"];
        target_id: String [string, tag = "4"];
    }
    SelinuxOption {
        user: String [string, tag = "1"];
        role: String [string, tag = "2"];
        kind: String [string, tag = "3"];
        level: String [string, tag = "4"];
    }
    SecurityProfile {
        profile_type: i32 [int32, tag = "1"];
        localhost_ref: String [string, tag = "2"];
    }
    RunPodSandboxRequest { config: Option<PodSandboxConfig> [message, optional, tag = "1"]; }
    // Also of Stop- and RemovePodSandbox.
    PodSandboxId { pod_sandbox_id: String [string, tag = "1"]; }
    PodSandboxStatusRequest {
        pod_sandbox_id: String [string, tag = "1"];
        verbose: bool [bool, tag = "2"];
    }
    PodSandboxStatusResponse {
        status: Option<PodSandboxStatus> [message, optional, tag = "1"];
        info: HashMap<String, String> [map = "string, string", tag = "2"];
    }
    PodSandboxStatus {
        network: Option<PodSandboxNetworkStatus> [message, optional, tag = "5"];
        annotations: HashMap<String, String> [map = "string, string", tag = "8"];
    }
    PodSandboxNetworkStatus {
        ip: String [string, tag = "1"];
        additional_ips: Vec<PodIp> [message, repeated, tag = "2"];
    }
    PodIp { ip: String [string, tag = "1"]; }
    PodSandboxFilter { label_selector: HashMap<String, String> [map = "string, string", tag = "3"]; }
    ListPodSandboxRequest { filter: Option<PodSandboxFilter> [message, optional, tag = "1"]; }
    ListPodSandboxResponse { items: Vec<PodSandbox> [message, repeated, tag = "1"]; }
    PodSandbox {
        id: String [string, tag = "1"];
        state: i32 [int32, tag = "3"];
        created_at: i64 [int64, tag = "4"];
        labels: HashMap<String, String> [map = "string, string", tag = "5"];
        annotations: HashMap<String, String> [map = "string, string", tag = "6"];
    }

    ImageSpec { image: String [string, tag = "1"]; }
    KeyValue {
        key: String [string, tag = "1"];
        value: Vec<u8> [bytes = "vec", tag = "2"];
    }
    Mount {
        container_path: String [string, tag = "1"];
        host_path: String [string, tag = "2"];
        readonly: bool [bool, tag = "3"];
        selinux_relabel: bool [bool, tag = "4"];
        propagation: i32 [int32, tag = "5"];
    }
    Device {
        container_path: String [string, tag = "1"];
        host_path: String [string, tag = "2"];
        permissions: String [string, tag = "3"];
    }
    ContainerMetadata {
        name: String [string, tag = "1"];
        attempt: u32 [uint32, tag = "2"];
    }
    LinuxContainerResources {
        cpu_period: i64 [int64, tag = "1"];
        cpu_quota: i64 [int64, tag = "2"];
        cpu_shares: i64 [int64, tag = "3"];
        memory_limit_in_bytes: i64 [int64, tag = "4"];
        oom_score_adj: i64 [int64, tag = "5"];
        cpuset_cpus: String [string, tag = "6"];
        hugepage_limits: Vec<HugepageLimit> [message, repeated, tag = "8"];
    }
    HugepageLimit {
        page_size: String [string, tag = "1"];
        limit: u64 [uint64, tag = "2"];
    }
    Capability {
        add_capabilities: Vec<String> [string, repeated, tag = "1"];
        drop_capabilities: Vec<String> [string, repeated, tag = "2"];
    }
    LinuxContainerSecurityContext {
        capabilities: Option<Capability> [message, optional, tag = "1"];
        privileged: bool [bool, tag = "2"];
        namespace_options: Option<NamespaceOption> [message, optional, tag = "3"];
        selinux_options: Option<SelinuxOption> [message, optional, tag = "4"];
        run_as_user: Option<Int64Value> [message, optional, tag = "5"];
        run_as_username: String [string, tag = "6"];
        readonly_rootfs: bool [bool, tag = "7"];
        supplemental_groups: Vec<i64> [int64, repeated, tag = "8"];
        no_new_privs: bool [bool, tag = "11"];
        run_as_group: Option<Int64Value> [message, optional, tag = "12"];
        masked_paths: Vec<String> [string, repeated, tag = "13"];
        readonly_paths: Vec<String> [string, repeated, tag = "14"];
        seccomp: Option<SecurityProfile> [message, optional, tag = "15"];
        apparmor: Option<SecurityProfile> [message, optional, tag = "16"];
    }
    LinuxContainerConfig {
        resources: Option<LinuxContainerResources> [message, optional, tag = "1"];
        security_context: Option<LinuxContainerSecurityContext> [message, optional, tag = "2"];
    }
    ContainerConfig {
        metadata: Option<ContainerMetadata> [message, optional, tag = "1"];
        image: Option<ImageSpec> [message, optional, tag = "2"];
        command: Vec<String> [string, repeated, tag = "3"];
        args: Vec<String> [string, repeated, tag = "4"];
        working_dir: String [string, tag = "5"];
        envs: Vec<KeyValue> [message, repeated, tag = "6"];
        mounts: Vec<Mount> [message, repeated, tag = "7"];
        devices: Vec<Device> [message, repeated, tag = "8"];
        labels: HashMap<String, String> [map = "string, string", tag = "9"];
        annotations: HashMap<String, String> [map = "string, string", tag = "10"];
        log_path: String [string, tag = "11"];
        stdin: bool [bool, tag = "12"];
        stdin_once: bool [bool, tag = "13"];
        tty: bool [bool, tag = "14"];
        linux: Option<LinuxContainerConfig> [message, optional, tag = "15"];
    }
    CreateContainerRequest {
        pod_sandbox_id: String [string, tag = "1"];
        config: Option<ContainerConfig> [message, optional, tag = "2"];
        sandbox_config: Option<PodSandboxConfig> [message, optional, tag = "3"];
    }
    // Of StartContainer and whatever else names a container and nothing more.
    ContainerIdOnly { container_id: String [string, tag = "1"]; }
    StopContainerRequest {
        container_id: String [string, tag = "1"];
        timeout: i64 [int64, tag = "2"];
    }
    ContainerFilter { label_selector: HashMap<String, String> [map = "string, string", tag = "4"]; }
    ListContainersRequest { filter: Option<ContainerFilter> [message, optional, tag = "1"]; }
    ListContainersResponse { containers: Vec<Container> [message, repeated, tag = "1"]; }
    Container {
        id: String [string, tag = "1"];
        pod_sandbox_id: String [string, tag = "2"];
        image_ref: String [string, tag = "5"];
        state: i32 [int32, tag = "6"];
    }
    ContainerStatusResponse { status: Option<ContainerStatus> [message, optional, tag = "1"]; }
    ContainerStatus {
        state: i32 [int32, tag = "3"];
        created_at: i64 [int64, tag = "4"];
        started_at: i64 [int64, tag = "5"];
        finished_at: i64 [int64, tag = "6"];
        exit_code: i32 [int32, tag = "7"];
        image: Option<ImageSpec> [message, optional, tag = "8"];
        image_ref: String [string, tag = "9"];
        reason: String [string, tag = "10"];
        message: String [string, tag = "11"];
        labels: HashMap<String, String> [map = "string, string", tag = "12"];
        annotations: HashMap<String, String> [map = "string, string", tag = "13"];
        log_path: String [string, tag = "15"];
    }
    UpdateContainerResourcesRequest {
        container_id: String [string, tag = "1"];
        linux: Option<LinuxContainerResources> [message, optional, tag = "2"];
    }
    ContainerStatsResponse { stats: Option<ContainerStats> [message, optional, tag = "1"]; }
    ContainerStats {
        cpu: Option<CpuUsage> [message, optional, tag = "2"];
        memory: Option<MemoryUsage> [message, optional, tag = "3"];
        writable_layer: Option<FilesystemUsage> [message, optional, tag = "4"];
    }
    CpuUsage {
        timestamp: i64 [int64, tag = "1"];
        usage_core_nano_seconds: Option<UInt64Value> [message, optional, tag = "2"];
    }
    MemoryUsage {
        working_set_bytes: Option<UInt64Value> [message, optional, tag = "2"];
        usage_bytes: Option<UInt64Value> [message, optional, tag = "4"];
        rss_bytes: Option<UInt64Value> [message, optional, tag = "5"];
    }
    FilesystemUsage {
        fs_id: Option<FilesystemIdentifier> [message, optional, tag = "2"];
        used_bytes: Option<UInt64Value> [message, optional, tag = "3"];
        inodes_used: Option<UInt64Value> [message, optional, tag = "4"];
    }
    FilesystemIdentifier { mountpoint: String [string, tag = "1"]; }
    ExecSyncRequest {
        container_id: String [string, tag = "1"];
        cmd: Vec<String> [string, repeated, tag = "2"];
        timeout: i64 [int64, tag = "3"];
    }
    ExecSyncResponse {
        stdout: Vec<u8> [bytes = "vec", tag = "1"];
        stderr: Vec<u8> [bytes = "vec", tag = "2"];
        exit_code: i32 [int32, tag = "3"];
    }
    ExecRequest {
        container_id: String [string, tag = "1"];
        cmd: Vec<String> [string, repeated, tag = "2"];
        tty: bool [bool, tag = "3"];
        stdin: bool [bool, tag = "4"];
        stdout: bool [bool, tag = "5"];
        stderr: bool [bool, tag = "6"];
    }
    AttachRequest {
        container_id: String [string, tag = "1"];
        stdin: bool [bool, tag = "2"];
        tty: bool [bool, tag = "3"];
        stdout: bool [bool, tag = "4"];
        stderr: bool [bool, tag = "5"];
    }
    // Where exec or attach are carried out.
    StreamingUrl { url: String [string, tag = "1"]; }

    ListImagesResponse { images: Vec<Image> [message, repeated, tag = "1"]; }
    Image {
        id: String [string, tag = "1"];
        repo_tags: Vec<String> [string, repeated, tag = "2"];
        repo_digests: Vec<String> [string, repeated, tag = "3"];
        size: u64 [uint64, tag = "4"];
        uid: Option<Int64Value> [message, optional, tag = "5"];
        username: String [string, tag = "6"];
        pinned: bool [bool, tag = "8"];
    }
    // Also of RemoveImage.
    ImageStatusRequest { image: Option<ImageSpec> [message, optional, tag = "1"]; }
    ImageStatusResponse { image: Option<Image> [message, optional, tag = "1"]; }
    AuthConfig {
        username: String [string, tag = "1"];
        password: String [string, tag = "2"];
    }
    PullImageRequest {
        image: Option<ImageSpec> [message, optional, tag = "1"];
        auth: Option<AuthConfig> [message, optional, tag = "2"];
    }
    PullImageResponse { image_ref: String [string, tag = "1"]; }
    ImageFsInfoResponse { image_filesystems: Vec<FilesystemUsage> [message, repeated, tag = "1"]; }
}

/// NamespaceMode.
pub(crate) mod namespace {
    pub(crate) const POD: i32 = 0;
    pub(crate) const CONTAINER: i32 = 1;
    pub(crate) const NODE: i32 = 2;
    pub(crate) const TARGET: i32 = 3;
}

/// ContainerState.
pub(crate) mod state {
    pub(crate) const CREATED: i32 = 0;
    pub(crate) const RUNNING: i32 = 1;
}

/// PodSandboxState: the one that is usable.
pub(crate) const SANDBOX_READY: i32 = 0;

/// SecurityProfile.ProfileType.
pub(crate) mod profile {
    pub(crate) const RUNTIME_DEFAULT: i32 = 0;
    pub(crate) const UNCONFINED: i32 = 1;
    pub(crate) const LOCALHOST: i32 = 2;
}

/// MountPropagation.
pub(crate) mod propagation {
    pub(crate) const PRIVATE: i32 = 0;
    pub(crate) const HOST_TO_CONTAINER: i32 = 1;
    pub(crate) const BIDIRECTIONAL: i32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn a_request_has_the_bytes_of_the_published_protocol() {
        let request = StopContainerRequest { container_id: "ab".into(), timeout: 3 };
        assert_eq!(request.encode_to_vec(), [0x0a, 2, b'a', b'b', 0x10, 3]);
        let config = ContainerConfig { tty: true, ..ContainerConfig::default() };
        assert_eq!(config.encode_to_vec(), [14 << 3, 1]);
        let user = LinuxContainerSecurityContext { run_as_user: Some(Int64Value { value: 0 }), ..Default::default() };
        assert_eq!(user.encode_to_vec(), [5 << 3 | 2, 0], "root is said, not left out");
    }
}
