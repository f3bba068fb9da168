// A controller: a ConfigMap with the label keep-for is deleted when it is that old, or as old as its namespace's label keep-at-most says.
package main

import (
	"encoding/json"
	"fmt"
	"time"

	"pintle.dev/module/controller"
)

type keeper struct {
	// Longest is how long anything is kept.
	Longest string
	longest time.Duration
}

// configMap is what is read of one, and of a namespace.
type configMap struct {
	Metadata struct {
		Labels            map[string]string
		UID               string
		CreationTimestamp time.Time
		DeletionTimestamp *time.Time
	}
}

func (k *keeper) Start(hello controller.Hello) (err error) {
	if err = json.Unmarshal([]byte(hello.Config), k); err != nil {
		return err
	}
	if k.longest, err = time.ParseDuration(k.Longest); err != nil {
		return fmt.Errorf("spec.config.longest: %w", err)
	}
	return nil
}

func (k *keeper) Reconcile(request controller.Request) (plan controller.Plan, err error) {
	var object configMap
	if request.Object == nil {
		return plan, nil
	}
	if err = json.Unmarshal([]byte(*request.Object), &object); err != nil || object.Metadata.DeletionTimestamp != nil {
		return plan, err
	}
	keep, err := time.ParseDuration(object.Metadata.Labels["keep-for"])
	if err != nil {
		plan.Events = append(plan.Events, controller.Event{Warning: true, Reason: "KeptForever", Message: err.Error()})
		return plan, nil
	}
	// The manifest relates no namespaces: this one is read when it is asked for.
	namespaces, read := request.Read(controller.Query{Resource: "namespaces", Name: request.Target.Namespace})
	if !read {
		return plan, nil
	}
	keep = min(keep, k.longest, atMost(namespaces, k.longest))
	left := object.Metadata.CreationTimestamp.Add(keep).Sub(request.Now())
	if left > 0 {
		plan.Requeue(left)
		return plan, nil
	}
	fmt.Printf("%s/%s was kept for %s\n", request.Target.Namespace, request.Target.Name, keep)
	target := request.Target
	target.UID = object.Metadata.UID
	plan.Writes = append(plan.Writes, controller.Write{Target: target, Action: controller.Delete{}})
	return plan, nil
}

// atMost is what the namespace's label says, or the default.
func atMost(namespaces []string, otherwise time.Duration) time.Duration {
	for _, text := range namespaces {
		var namespace configMap
		if json.Unmarshal([]byte(text), &namespace) != nil {
			continue
		}
		if most, err := time.ParseDuration(namespace.Metadata.Labels["keep-at-most"]); err == nil {
			return most
		}
	}
	return otherwise
}

func init() { controller.Serve(&keeper{}) }

func main() {}
