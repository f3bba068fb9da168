package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

var configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")

// log is what an informer told its handler, in order: "+name", "~name=value", "-name". What other parts of the cluster make in
// a namespace (its root certificates) is left out.
type log struct {
	sync.Mutex
	lines []string
}

func (l *log) add(line string) {
	l.Lock()
	defer l.Unlock()
	l.lines = append(l.lines, line)
}

func (l *log) String() string {
	l.Lock()
	defer l.Unlock()
	return strings.Join(l.lines, " ")
}

// handler writes down what it is told; `value` reads an object's value.
func (l *log) handler(value func(any) string) cache.ResourceEventHandler {
	name := func(object any) string {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		return object.(metav1.Object).GetName()
	}
	mine := func(object any) bool { return name(object) != "kube-root-ca.crt" }
	return cache.FilteringResourceEventHandler{FilterFunc: mine, Handler: cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { l.add("+" + name(object)) },
		UpdateFunc: func(old, object any) {
			if old.(metav1.Object).GetResourceVersion() != object.(metav1.Object).GetResourceVersion() {
				l.add("~" + name(object) + "=" + value(object))
			}
		},
		DeleteFunc: func(object any) { l.add("-" + name(object)) },
	}}
}

// follow runs an informer through an object's life, two objects being there before it starts.
func (w *world) follow(informer cache.SharedIndexInformer, value func(any) string, changed string) error {
	for _, name := range []string{"a", "b"} {
		if err := w.put(name, "0"); err != nil {
			return err
		}
	}
	var seen log
	if _, err := informer.AddEventHandler(seen.handler(value)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(w)
	defer cancel()
	go informer.Run(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return fmt.Errorf("the informer did not sync")
	}
	for _, step := range []error{w.put("c", "0"), w.set("c", "1"), w.remove("c"), w.remove("a")} {
		if step != nil {
			return step
		}
	}
	expected := []string{"+a +b +c " + changed + " -c -a", "+b +a +c " + changed + " -c -a"}
	if err := w.until("the informer has told all of it", func() (bool, string) { s := seen.String(); return strings.HasSuffix(s, "-a"), s }); err != nil {
		return err
	}
	if s := seen.String(); s != expected[0] && s != expected[1] {
		return fmt.Errorf("the handler was told %q, wanted %q", s, expected[0])
	}
	return nil
}

func typedInformer(w *world) error {
	factory := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithNamespace(w.namespace))
	informer := factory.Core().V1().ConfigMaps()
	err := w.follow(informer.Informer(), func(o any) string { return o.(*corev1.ConfigMap).Data["k"] }, "~c=1")
	if err != nil {
		return err
	}
	left, err := informer.Lister().ConfigMaps(w.namespace).List(labels.SelectorFromSet(labels.Set{"made-by": "client"}))
	if err == nil && (len(left) != 1 || left[0].Name != "b" || left[0].Data["k"] != "0") {
		err = fmt.Errorf("the lister has %v", left)
	}
	return err
}

func dynamicInformer(w *world) error {
	client, err := dynamic.NewForConfig(w.json)
	if err != nil {
		return err
	}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, w.namespace, nil)
	value := func(o any) string {
		text, _, _ := unstructured.NestedString(o.(*unstructured.Unstructured).Object, "data", "k")
		return text
	}
	return w.follow(factory.ForResource(configMaps).Informer(), value, "~c=1")
}

func metadataInformer(w *world) error {
	client, err := metadata.NewForConfig(w.json)
	if err != nil {
		return err
	}
	factory := metadatainformer.NewFilteredSharedInformerFactory(client, 0, w.namespace, nil)
	value := func(o any) string { return o.(*metav1.PartialObjectMetadata).Labels["made-by"] }
	return w.follow(factory.ForResource(configMaps).Informer(), value, "~c=client")
}

// cutInformer takes the informer's connections away while things change: it must learn each object's last state, in order, once.
func cutInformer(w *world) error {
	var cut atomic.Bool
	var mutex sync.Mutex
	var open []net.Conn
	config := rest.CopyConfig(w.protobuf)
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if cut.Load() {
			return nil, fmt.Errorf("the line is cut")
		}
		connection, err := (&net.Dialer{}).DialContext(ctx, network, address)
		mutex.Lock()
		defer mutex.Unlock()
		open = append(open, connection)
		return connection, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	informer := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(w.namespace)).Core().V1().ConfigMaps().Informer()
	var seen log
	if _, err := informer.AddEventHandler(seen.handler(func(o any) string { return o.(*corev1.ConfigMap).Data["k"] })); err != nil {
		return err
	}
	go informer.Run(w.Done())
	if !cache.WaitForCacheSync(w.Done(), informer.HasSynced) {
		return fmt.Errorf("the informer did not sync")
	}
	for _, name := range []string{"kept", "gone"} {
		if err := w.put(name, "0"); err != nil {
			return err
		}
	}
	told := func(text string) error {
		return w.until("the handler was told "+text, func() (bool, string) { s := seen.String(); return s == text, s })
	}
	if err := told("+kept +gone"); err != nil {
		return err
	}
	cut.Store(true)
	mutex.Lock()
	for _, connection := range open {
		_ = connection.Close()
	}
	mutex.Unlock()
	for i := 1; i <= 20; i++ {
		if err := w.set("kept", fmt.Sprint(i)); err != nil {
			return err
		}
	}
	if err := w.remove("gone"); err != nil {
		return err
	}
	cut.Store(false)
	caughtUp := func() (bool, string) {
		s := seen.String()
		return strings.Contains(s, "-gone") && strings.Contains(s, "~kept=20"), s
	}
	if err := w.until("the informer has caught up", caughtUp); err != nil {
		return err
	}
	if err := w.put("after", "0"); err != nil {
		return err
	}
	if err := w.until("it goes on", func() (bool, string) { s := seen.String(); return strings.HasSuffix(s, "+after"), s }); err != nil {
		return err
	}
	// A resumed watch tells every change; a new list only the last. Either way each once, rising.
	last, told20 := 0, false
	for _, line := range strings.Fields(seen.String())[2:] {
		var n int
		if _, err := fmt.Sscanf(line, "~kept=%d", &n); err == nil {
			if n <= last {
				return fmt.Errorf("out of order or twice: %s", seen.String())
			}
			last, told20 = n, n == 20
		}
	}
	if !told20 || strings.Count(seen.String(), "-gone") != 1 || strings.Count(seen.String(), "+") != 3 {
		return fmt.Errorf("the handler was told %s", seen.String())
	}
	return nil
}
