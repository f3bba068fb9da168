package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"context"
	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	segments := map[string]string{topology: filepath.Base(d.node)}
	return &csi.NodeGetInfoResponse{NodeId: d.node, MaxVolumesPerNode: d.limit, AccessibleTopology: &csi.Topology{Segments: segments}}, nil
}

func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	} {
		rpc := &csi.NodeServiceCapability_RPC{Type: kind}
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: rpc}})
	}
	return answer, nil
}

func mounted(path string) bool {
	var here, above unix.Stat_t
	var statx unix.Statx_t
	if unix.Stat(path, &here) != nil || unix.Stat(filepath.Dir(path), &above) != nil {
		return false
	}
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &statx) == nil {
		return statx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	}
	return here.Dev != above.Dev
}

func bind(from, to string, readOnly bool) error {
	if mounted(to) {
		return nil
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return bad(codes.Internal, "binding %s to %s: %v", from, to, err)
	}
	if readOnly {
		return unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	return nil
}

func unbind(path string) error {
	for mounted(path) {
		if err := unix.Unmount(path, 0); err != nil {
			return bad(codes.Internal, "unmounting %s: %v", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (d *Driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if r.VolumeId == "" || r.StagingTargetPath == "" || r.VolumeCapability == nil {
		return nil, bad(codes.InvalidArgument, "volume ID, staging path and capability are needed")
	}
	if _, err := d.load(r.VolumeId); err != nil {
		return nil, err
	}
	if want := r.VolumeContext["secret"]; want != "" && r.Secrets["word"] != want {
		return nil, bad(codes.Unauthenticated, "the secret's word is not the volume's")
	}
	return &csi.NodeStageVolumeResponse{}, bind(d.directory(r.VolumeId), r.StagingTargetPath, false)
}

func (d *Driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if r.VolumeId == "" || r.StagingTargetPath == "" {
		return nil, bad(codes.InvalidArgument, "volume ID and staging path are needed")
	}
	return &csi.NodeUnstageVolumeResponse{}, unbind(r.StagingTargetPath)
}

func (d *Driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if r.VolumeId == "" || r.TargetPath == "" || r.VolumeCapability == nil {
		return nil, bad(codes.InvalidArgument, "volume ID, target path and capability are needed")
	}
	if r.VolumeContext["csi.storage.k8s.io/ephemeral"] == "true" {
		return &csi.NodePublishVolumeResponse{}, publishOwn(r)
	}
	if _, err := d.load(r.VolumeId); err != nil {
		return nil, err
	}
	if r.StagingTargetPath == "" {
		return nil, bad(codes.FailedPrecondition, "volume %q is not staged", r.VolumeId)
	}
	return &csi.NodePublishVolumeResponse{}, bind(r.StagingTargetPath, r.TargetPath, r.Readonly)
}

// A pod's own volume: a tmpfs with what the driver was told, told anew whenever it is published again.
func publishOwn(r *csi.NodePublishVolumeRequest) error {
	if !mounted(r.TargetPath) {
		if err := os.MkdirAll(r.TargetPath, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", r.TargetPath, "tmpfs", 0, "mode=0755"); err != nil {
			return bad(codes.Internal, "mounting %s: %v", r.TargetPath, err)
		}
	}
	text, err := json.Marshal(map[string]any{"context": r.VolumeContext, "secrets": r.Secrets})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.TargetPath, "told"), text, 0o644)
}

func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if r.VolumeId == "" || r.TargetPath == "" {
		return nil, bad(codes.InvalidArgument, "volume ID and target path are needed")
	}
	return &csi.NodeUnpublishVolumeResponse{}, unbind(r.TargetPath)
}

// The volume that is said to be at a path.
func (d *Driver) at(id, path string) (*volume, error) {
	if id == "" || path == "" {
		return nil, bad(codes.InvalidArgument, "volume ID and path are needed")
	}
	found, err := d.load(id)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, bad(codes.NotFound, "%v", err)
	}
	return found, nil
}

func (d *Driver) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	found, err := d.at(r.VolumeId, r.VolumePath)
	if err != nil {
		return nil, err
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: found.Bytes}, nil
}

func (d *Driver) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	found, err := d.at(r.VolumeId, r.VolumePath)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: found.Bytes, Available: found.Bytes}}}, nil
}
