// A controller: a ConfigMap with the label keep-for is deleted when it is that old.
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

// configMap is what is read of one.
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
	left := object.Metadata.CreationTimestamp.Add(min(keep, k.longest)).Sub(request.Now())
	if left > 0 {
		plan.Requeue(left)
		return plan, nil
	}
	fmt.Printf("%s/%s was kept for %s\n", request.Target.Namespace, request.Target.Name, min(keep, k.longest))
	target := request.Target
	target.UID = object.Metadata.UID
	plan.Writes = append(plan.Writes, controller.Write{Target: target, Action: controller.Delete{}})
	return plan, nil
}

func init() { controller.Serve(&keeper{}) }

func main() {}
