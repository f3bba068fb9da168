package main

import (
	"testing"

	"pintle.dev/module/admission"
)

func review(t *testing.T, phase admission.Phase, image string) admission.Verdict {
	t.Helper()
	r := &rule{}
	if err := r.Start(admission.Hello{Config: `{"registries": ["registry.local"]}`}); err != nil {
		t.Fatal(err)
	}
	object := `{"spec": {"containers": [{"name": "c", "image": "` + image + `"}]}}`
	verdict, err := r.Review(admission.Request{Phase: phase, Object: &object})
	if err != nil {
		t.Fatal(err)
	}
	return verdict
}

func TestAnImageComesFromAKnownRegistry(t *testing.T) {
	if verdict := review(t, admission.Validating, "registry.local/web:1"); verdict.Refusal != nil {
		t.Errorf("%+v", verdict.Refusal)
	}
	for _, image := range []string{"elsewhere/web:1", "web:1", "registry.local.evil/web"} {
		if verdict := review(t, admission.Validating, image); verdict.Refusal == nil {
			t.Errorf("%s passes", image)
		}
	}
}

func TestAnImageWithoutATagIsPulledAlways(t *testing.T) {
	verdict := review(t, admission.Mutating, "registry.local/web")
	if len(verdict.Edits) != 1 || verdict.Edits[0].Value != `"Always"` || len(verdict.Warnings) != 1 {
		t.Errorf("%+v", verdict)
	}
	if verdict := review(t, admission.Mutating, "registry.local/web@sha256:0"); len(verdict.Edits) != 0 {
		t.Errorf("%+v", verdict)
	}
}
