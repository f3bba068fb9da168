package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"context"
	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

const largest = int64(1) << 40

// A volume's record: a file beside its directory.
type volume struct {
	Bytes int64
	Node  string
}

func (d *Driver) directory(id string) string {
	return filepath.Join(d.data, "volumes", filepath.Base(id))
}

func (d *Driver) load(id string) (*volume, error) {
	text, err := os.ReadFile(d.directory(id) + ".json")
	if err != nil {
		return nil, bad(codes.NotFound, "no volume %q", id)
	}
	found := &volume{}
	return found, json.Unmarshal(text, found)
}

func (d *Driver) keep(id string, v *volume) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(d.directory(id)+".json", text, 0o644)
}

func (d *Driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
	} {
		rpc := &csi.ControllerServiceCapability_RPC{Type: kind}
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: rpc}})
	}
	return answer, nil
}

func (d *Driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.Name == "" || len(r.VolumeCapabilities) == 0 {
		return nil, bad(codes.InvalidArgument, "a name and capabilities are needed")
	}
	bytes := r.CapacityRange.GetRequiredBytes()
	if bytes > largest {
		return nil, bad(codes.OutOfRange, "%d bytes are too many", bytes)
	}
	found, err := d.load(r.Name)
	switch {
	case err != nil:
		if err := os.MkdirAll(d.directory(r.Name), 0o777); err != nil {
			return nil, err
		}
		found = &volume{Bytes: bytes}
		if err := d.keep(r.Name, found); err != nil {
			return nil, err
		}
	case found.Bytes != bytes:
		return nil, bad(codes.AlreadyExists, "volume %q has %d bytes", r.Name, found.Bytes)
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: r.Name, CapacityBytes: bytes, VolumeContext: r.Parameters,
		AccessibleTopology: r.AccessibilityRequirements.GetPreferred(),
	}}, nil
}

func (d *Driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, bad(codes.InvalidArgument, "no volume ID")
	}
	if found, err := d.load(r.VolumeId); err == nil && found.Node != "" {
		return nil, bad(codes.FailedPrecondition, "volume %q is published at %q", r.VolumeId, found.Node)
	}
	_ = os.Remove(d.directory(r.VolumeId) + ".json")
	return &csi.DeleteVolumeResponse{}, os.RemoveAll(d.directory(r.VolumeId))
}

func (d *Driver) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if r.VolumeId == "" || r.NodeId == "" || r.VolumeCapability == nil {
		return nil, bad(codes.InvalidArgument, "volume ID, node ID and capability are needed")
	}
	found, err := d.load(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if d.node != "" && r.NodeId != d.node && filepath.Dir(r.NodeId) != "nodes" {
		return nil, bad(codes.NotFound, "no node %q", r.NodeId)
	}
	if found.Node != "" && found.Node != r.NodeId {
		return nil, bad(codes.FailedPrecondition, "volume %q is published at %q", r.VolumeId, found.Node)
	}
	found.Node = r.NodeId
	return &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{"published": r.NodeId}}, d.keep(r.VolumeId, found)
}

func (d *Driver) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, bad(codes.InvalidArgument, "no volume ID")
	}
	if found, err := d.load(r.VolumeId); err == nil {
		found.Node = ""
		if err := d.keep(r.VolumeId, found); err != nil {
			return nil, err
		}
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

func (d *Driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.VolumeId == "" || len(r.VolumeCapabilities) == 0 {
		return nil, bad(codes.InvalidArgument, "volume ID and capabilities are needed")
	}
	if _, err := d.load(r.VolumeId); err != nil {
		return nil, err
	}
	confirmed := &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.VolumeCapabilities}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: confirmed}, nil
}

func (d *Driver) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	return &csi.GetCapacityResponse{AvailableCapacity: largest}, nil
}

func (d *Driver) ControllerExpandVolume(_ context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if r.VolumeId == "" || r.CapacityRange == nil {
		return nil, bad(codes.InvalidArgument, "volume ID and capacity are needed")
	}
	found, err := d.load(r.VolumeId)
	if err != nil {
		return nil, err
	}
	found.Bytes = max(found.Bytes, r.CapacityRange.RequiredBytes)
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: found.Bytes, NodeExpansionRequired: true}, d.keep(r.VolumeId, found)
}
