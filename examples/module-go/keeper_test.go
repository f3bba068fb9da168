package main

import (
	"testing"
	"time"

	"pintle.dev/module/controller"
)

func reconcile(t *testing.T, keepFor string, age time.Duration, namespaces ...string) controller.Plan {
	t.Helper()
	k := &keeper{}
	if err := k.Start(controller.Hello{Config: `{"longest": "1h"}`}); err != nil {
		t.Fatal(err)
	}
	object := `{"metadata": {"uid": "u", "labels": {"keep-for": "` + keepFor + `"}, "creationTimestamp": "2026-01-01T00:00:00Z"}}`
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(age)
	request := controller.Request{NowMillis: uint64(now.UnixMilli()), Object: &object}
	request.Target.Namespace = "n"
	request.Related = append(request.Related, controller.Query{Resource: "namespaces", Name: "n"}.Answer(namespaces...))
	plan, err := k.Reconcile(request)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestItIsDeletedWhenItIsOldEnough(t *testing.T) {
	if plan := reconcile(t, "1m", 59*time.Second); len(plan.Writes) > 0 || *plan.RequeueAfterMillis != 1001 {
		t.Errorf("too early: %+v", plan)
	}
	for _, keepFor := range []string{"1m", "2h"} {
		if plan := reconcile(t, keepFor, time.Hour); len(plan.Writes) != 1 || plan.Writes[0].Target.UID != "u" {
			t.Errorf("kept for %s: %+v", keepFor, plan)
		}
	}
}

func TestTheNamespaceMaySayHowLongAtMost(t *testing.T) {
	short := `{"metadata": {"labels": {"keep-at-most": "30s"}}}`
	if plan := reconcile(t, "1m", 31*time.Second, short); len(plan.Writes) != 1 {
		t.Errorf("%+v", plan)
	}
}

func TestWhatIsNoTimeIsTold(t *testing.T) {
	if plan := reconcile(t, "soon", time.Hour); len(plan.Writes) > 0 || len(plan.Events) != 1 {
		t.Errorf("%+v", plan)
	}
}
