// The check that the bench asks of every language: images say which version they are.
package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"pintle.dev/module/admission"
)

type rule struct{}

type pod struct {
	Spec struct {
		Containers, InitContainers []struct{ Image string }
	}
}

func (*rule) Start(admission.Hello) error { return nil }

func (*rule) Review(request admission.Request) (verdict admission.Verdict, err error) {
	var object pod
	if request.Object == nil {
		return verdict, nil
	}
	if err = json.Unmarshal([]byte(*request.Object), &object); err != nil {
		return verdict, err
	}
	for _, container := range append(object.Spec.Containers, object.Spec.InitContainers...) {
		if !pinned(container.Image) {
			return admission.Refuse(fmt.Sprintf("image %s must have a tag other than latest, or a digest", container.Image)), nil
		}
	}
	return verdict, nil
}

func pinned(image string) bool {
	_, tag, _ := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	return strings.Contains(image, "@") || tag != "" && tag != "latest"
}

func init() { admission.Serve(&rule{}) }

func main() {}
