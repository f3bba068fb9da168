// An admission rule: images come from the registries that the configuration names, and one without a digest or a tag is not reused from before.
package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"pintle.dev/module/admission"
)

type rule struct {
	Registries []string
}

// pod is what is read of one.
type pod struct {
	Spec struct {
		Containers []struct{ Name, Image, ImagePullPolicy string }
	}
}

func (r *rule) Start(hello admission.Hello) error {
	if err := json.Unmarshal([]byte(hello.Config), r); err != nil {
		return err
	}
	if len(r.Registries) == 0 {
		return fmt.Errorf("spec.config.registries names none")
	}
	return nil
}

func (r *rule) Review(request admission.Request) (verdict admission.Verdict, err error) {
	var object pod
	if request.Object == nil {
		return verdict, nil
	}
	if err = json.Unmarshal([]byte(*request.Object), &object); err != nil {
		return verdict, err
	}
	for i, container := range object.Spec.Containers {
		registry, rest, _ := strings.Cut(container.Image, "/")
		if request.Phase == admission.Validating && !r.knows(registry) {
			return admission.Refuse(fmt.Sprintf("container %s: images come from %s", container.Name, strings.Join(r.Registries, " or "))), nil
		}
		if request.Phase == admission.Mutating && !strings.ContainsAny(rest, ":@") && container.ImagePullPolicy != "Always" {
			edit, err := admission.Set(fmt.Sprintf("/spec/containers/%d/imagePullPolicy", i), "Always")
			if err != nil {
				return verdict, err
			}
			verdict.Edits = append(verdict.Edits, edit)
			verdict.Warnings = append(verdict.Warnings, fmt.Sprintf("container %s: its image has neither tag nor digest", container.Name))
		}
	}
	return verdict, nil
}

func (r *rule) knows(registry string) bool {
	for _, known := range r.Registries {
		if known == registry {
			return true
		}
	}
	return false
}

func init() { admission.Serve(&rule{}) }

func main() {}
