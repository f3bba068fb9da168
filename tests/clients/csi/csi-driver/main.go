// A CSI driver whose volumes are directories below --data: what the tests run beside the published sidecars. It speaks by the published packages of the
// specification, registers as node-driver-registrar does, and is held to the specification by csi-sanity. Every call is a line of --data/calls.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"context"
	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const topology = "dir.csi.pintle.test/node"

// Driver is all three services.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	name, node, data string
	limit            int64
	// One call at a time: volumes are files.
	mutex sync.Mutex
}

func main() {
	d := &Driver{}
	var socket, register string
	flag.StringVar(&d.name, "name", "dir.csi.pintle.test", "the driver's name")
	flag.StringVar(&d.node, "node", "", "the node's ID")
	flag.StringVar(&d.data, "data", "", "where the volumes are")
	flag.Int64Var(&d.limit, "limit", 0, "volumes a node, 0: any number")
	flag.StringVar(&socket, "socket", "", "where CSI is served")
	flag.StringVar(&register, "register", "", "the socket in the registry of plugins, empty: not registered")
	flag.Parse()
	if err := os.MkdirAll(filepath.Join(d.data, "volumes"), 0o755); err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(d.note))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	if register != "" {
		go func() {
			listening, err := listen(socket)
			if err != nil {
				log.Fatal(err)
			}
			log.Fatal(server.Serve(listening))
		}()
		registrar := grpc.NewServer()
		registration.RegisterRegistrationServer(registrar, &registrarServer{name: d.name, socket: socket})
		listening, err := listen(register)
		if err != nil {
			log.Fatal(err)
		}
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		go func() {
			<-stop
			// The listener takes its socket with it, by which the node sees that the driver has gone.
			listening.Close()
			os.Exit(0)
		}()
		if err := registrar.Serve(listening); err != nil {
			log.Print(err)
		}
		select {}
	}
	listening, err := listen(socket)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(listening))
}

func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	_ = os.Remove(socket)
	return net.Listen("unix", socket)
}

// What node-driver-registrar answers.
type registrarServer struct {
	registration.UnimplementedRegistrationServer
	name, socket string
}

func (r *registrarServer) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: r.name, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r *registrarServer) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !s.PluginRegistered {
		log.Fatalf("registration failed: %s", s.Error)
	}
	log.Print("registered")
	return &registration.RegistrationStatusResponse{}, nil
}

// note writes down what was asked and how it ended.
func (d *Driver) note(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	answer, err := handler(ctx, request)
	line, _ := json.Marshal(map[string]any{"call": filepath.Base(info.FullMethod), "request": request, "code": status.Code(err).String(), "node": d.node})
	file, open := os.OpenFile(filepath.Join(d.data, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if open != nil {
		return nil, open
	}
	defer file.Close()
	if _, write := file.Write(append(line, '\n')); write != nil {
		return nil, write
	}
	return answer, err
}

func bad(code codes.Code, format string, arguments ...any) error {
	return status.Errorf(code, format, arguments...)
}

func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.name, VendorVersion: "1"}, nil
}

func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := func(kind csi.PluginCapability_Service_Type) *csi.PluginCapability {
		return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: kind}}}
	}
	online := &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
		{Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: online}},
	}}, nil
}
