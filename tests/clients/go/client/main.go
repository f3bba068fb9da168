// Command client uses Kubernetes as programs in Go do: with client-go. `client SCENARIO` does one of the scenarios below against the
// cluster of $KUBECONFIG, in a namespace of its own that it removes; it says why and ends with 1 when something is not as client-go's users expect.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// patience bounds each wait on a condition.
const patience = 60 * time.Second

// world is what a scenario works with.
type world struct {
	context.Context
	// json and protobuf differ in the media type only; neither limits its own rate.
	json, protobuf *rest.Config
	client         kubernetes.Interface
	namespace      string
}

var scenarios = map[string]func(*world) error{
	"typed_informer_in_protobuf": typedInformer,
	"dynamic_informer":           dynamicInformer,
	"metadata_informer":          metadataInformer,
	"cut_informer_resumes":       cutInformer,
	"watch_list_of_5000":         watchList,
	"typed_apply":                typedApply,
	"leader_election":            leaderElection,
	"fifty_updaters":             fiftyUpdaters,
	"paged_list":                 pagedList,
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "list" {
		for name := range scenarios {
			fmt.Println(name)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 || scenarios[os.Args[1]] == nil {
		return fmt.Errorf("usage: client list|SCENARIO")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	config.QPS = -1
	protobuf := rest.CopyConfig(config)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(protobuf)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	made, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "client-go-"}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("creating a namespace: %w", err)
	}
	err = scenarios[os.Args[1]](&world{ctx, config, protobuf, client, made.Name})
	if left := client.CoreV1().Namespaces().Delete(ctx, made.Name, metav1.DeleteOptions{}); err == nil {
		err = left
	}
	return err
}

// until polls a condition; the error says what was awaited and what was seen last.
func (w *world) until(what string, condition func() (bool, string)) error {
	limit := time.Now().Add(patience)
	for {
		done, seen := condition()
		if done {
			return nil
		}
		if time.Now().After(limit) || w.Err() != nil {
			return fmt.Errorf("gave up waiting until %s; last seen: %s", what, seen)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// put creates a ConfigMap with one key.
func (w *world) put(name, value string) error {
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"made-by": "client"}}, Data: map[string]string{"k": value}}
	_, err := w.client.CoreV1().ConfigMaps(w.namespace).Create(w, object, metav1.CreateOptions{})
	return err
}

// set changes that key.
func (w *world) set(name, value string) error {
	patch := fmt.Sprintf(`{"data":{"k":%q}}`, value)
	_, err := w.client.CoreV1().ConfigMaps(w.namespace).Patch(w, name, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
	return err
}

// remove deletes it.
func (w *world) remove(name string) error {
	return w.client.CoreV1().ConfigMaps(w.namespace).Delete(w, name, metav1.DeleteOptions{})
}
