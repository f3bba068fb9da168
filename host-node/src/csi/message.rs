//! Messages of CSI v1 (`csi.v1`) and of the registration of plugins (`pluginregistration`), as far as a node sends or reads them. Names and numbers are
//! those of the published `csi.proto` and `api.proto`; what is left out here is left out on the wire, and skipped where it comes in.

use std::collections::HashMap;

/// Defines messages: `name { field: kind = tag }`, the kinds as prost calls them.
macro_rules! messages {
    ($($name:ident { $($field:ident: $rust:ty [$($kind:tt)+];)* })*) => {
        $(
            #[derive(Clone, PartialEq, prost::Message)]
            pub(super) struct $name {
                $(#[prost($($kind)+)] pub(super) $field: $rust,)*
            }
        )*
    };
}

messages! {
    Empty {}

    PluginInfo {
        kind: String [string, tag = "1"];
        name: String [string, tag = "2"];
        endpoint: String [string, tag = "3"];
        supported_versions: Vec<String> [string, repeated, tag = "4"];
    }
    RegistrationStatus {
        plugin_registered: bool [bool, tag = "1"];
        error: String [string, tag = "2"];
    }

    NodeGetInfoResponse {
        node_id: String [string, tag = "1"];
        max_volumes_per_node: i64 [int64, tag = "2"];
        accessible_topology: Option<Topology> [message, optional, tag = "3"];
    }
    Topology { segments: HashMap<String, String> [map = "string, string", tag = "1"]; }
    NodeGetCapabilitiesResponse { capabilities: Vec<NodeServiceCapability> [message, repeated, tag = "1"]; }
    NodeServiceCapability { rpc: Option<Rpc> [message, optional, tag = "1"]; }
    Rpc { kind: i32 [int32, tag = "1"]; }

    VolumeCapability {
        mount: Option<MountVolume> [message, optional, tag = "2"];
        access_mode: Option<AccessMode> [message, optional, tag = "3"];
    }
    MountVolume {
        fs_type: String [string, tag = "1"];
        mount_flags: Vec<String> [string, repeated, tag = "2"];
        volume_mount_group: String [string, tag = "3"];
    }
    AccessMode { mode: i32 [int32, tag = "1"]; }
    CapacityRange { required_bytes: i64 [int64, tag = "1"]; }
    NodeStageVolumeRequest {
        volume_id: String [string, tag = "1"];
        publish_context: HashMap<String, String> [map = "string, string", tag = "2"];
        staging_target_path: String [string, tag = "3"];
        volume_capability: Option<VolumeCapability> [message, optional, tag = "4"];
        secrets: HashMap<String, String> [map = "string, string", tag = "5"];
        volume_context: HashMap<String, String> [map = "string, string", tag = "6"];
    }
    NodeUnstageVolumeRequest {
        volume_id: String [string, tag = "1"];
        staging_target_path: String [string, tag = "2"];
    }
    NodePublishVolumeRequest {
        volume_id: String [string, tag = "1"];
        publish_context: HashMap<String, String> [map = "string, string", tag = "2"];
        staging_target_path: String [string, tag = "3"];
        target_path: String [string, tag = "4"];
        volume_capability: Option<VolumeCapability> [message, optional, tag = "5"];
        readonly: bool [bool, tag = "6"];
        secrets: HashMap<String, String> [map = "string, string", tag = "7"];
        volume_context: HashMap<String, String> [map = "string, string", tag = "8"];
    }
    NodeUnpublishVolumeRequest {
        volume_id: String [string, tag = "1"];
        target_path: String [string, tag = "2"];
    }
    NodeExpandVolumeRequest {
        volume_id: String [string, tag = "1"];
        volume_path: String [string, tag = "2"];
        capacity_range: Option<CapacityRange> [message, optional, tag = "3"];
        staging_target_path: String [string, tag = "4"];
        volume_capability: Option<VolumeCapability> [message, optional, tag = "5"];
        secrets: HashMap<String, String> [map = "string, string", tag = "6"];
    }
    NodeExpandVolumeResponse { capacity_bytes: i64 [int64, tag = "1"]; }
}

/// Kinds of [`Rpc`]: what a driver's node service can do.
pub(super) mod can {
    pub(in crate::csi) const STAGE: i32 = 1;
    pub(in crate::csi) const EXPAND: i32 = 3;
    pub(in crate::csi) const SINGLE_NODE_MULTI_WRITER: i32 = 5;
    pub(in crate::csi) const MOUNT_GROUP: i32 = 6;
}

/// The mode by which a volume is used, after the first of its access modes, as the kubelet has it.
pub(super) fn access_mode(mode: &str, tells_writers_apart: bool) -> AccessMode {
    let mode = match (mode, tells_writers_apart) {
        ("ReadOnlyMany", _) => 3,
        ("ReadWriteMany", _) => 5,
        ("ReadWriteOncePod", true) => 6,
        (_, true) => 7,
        (_, false) => 1,
    };
    AccessMode { mode }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn a_request_is_on_the_wire_as_the_published_messages_have_it() {
        let request = NodeUnpublishVolumeRequest { volume_id: "v".into(), target_path: "/t".into() };
        assert_eq!(request.encode_to_vec(), b"\x0a\x01v\x12\x02/t");
        let mount = MountVolume { fs_type: "ext4".into(), ..MountVolume::default() };
        let capability = VolumeCapability { mount: Some(mount), access_mode: Some(access_mode("ReadWriteOnce", false)) };
        assert_eq!(capability.encode_to_vec(), b"\x12\x06\x0a\x04ext4\x1a\x02\x08\x01");
    }

    #[test]
    fn access_modes_are_the_kubelets() {
        let table = [("ReadWriteOnce", 1, 7), ("ReadWriteOncePod", 1, 6), ("ReadOnlyMany", 3, 3), ("ReadWriteMany", 5, 5), ("", 1, 7)];
        for (mode, plain, apart) in table {
            assert_eq!((access_mode(mode, false).mode, access_mode(mode, true).mode), (plain, apart), "{mode}");
        }
    }
}
