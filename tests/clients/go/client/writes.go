package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	appsv1 "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"
)

// typedApply has two managers apply one Deployment: what both set conflicts, what one gives up the other keeps.
func typedApply(w *world) error {
	selector := map[string]string{"app": "web"}
	deployment := func(replicas int32) *appsv1.DeploymentApplyConfiguration {
		return appsv1.Deployment("web", w.namespace).WithSpec(appsv1.DeploymentSpec().WithReplicas(replicas).
			WithSelector(applymeta.LabelSelector().WithMatchLabels(selector)).
			WithTemplate(corev1.PodTemplateSpec().WithLabels(selector).WithSpec(corev1.PodSpec().
				WithContainers(corev1.Container().WithName("c").WithImage("registry.example.test/none:1").
					WithPorts(corev1.ContainerPort().WithContainerPort(53).WithProtocol("TCP"), corev1.ContainerPort().WithContainerPort(53).WithProtocol("UDP"))))))
	}
	client := w.client.AppsV1().Deployments(w.namespace)
	if _, err := client.Apply(w, deployment(0), metav1.ApplyOptions{FieldManager: "first"}); err != nil {
		return err
	}
	_, err := client.Apply(w, deployment(1), metav1.ApplyOptions{FieldManager: "second"})
	if !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		return fmt.Errorf("wanted a conflict, got %v", err)
	}
	if _, err = client.Apply(w, deployment(1), metav1.ApplyOptions{FieldManager: "second", Force: true}); err != nil {
		return err
	}
	// What a manager owns, as its next apply starts from.
	live, err := client.Get(w, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	extracted, err := appsv1.ExtractDeployment(live, "second")
	if err != nil {
		return err
	}
	if extracted.Spec == nil || extracted.Spec.Replicas == nil || *extracted.Spec.Replicas != 1 || len(extracted.Spec.Template.Spec.Containers[0].Ports) != 2 {
		return fmt.Errorf("second owns %+v", extracted.Spec)
	}
	first, err := appsv1.ExtractDeployment(live, "first")
	if err != nil {
		return err
	}
	if first.Spec.Replicas != nil {
		return fmt.Errorf("first still owns the replicas that were taken from it")
	}
	// Given up by its only owner, a field goes back to its default.
	extracted.Spec.Replicas = nil
	applied, err := client.Apply(w, extracted, metav1.ApplyOptions{FieldManager: "second"})
	if err != nil {
		return err
	}
	if *applied.Spec.Replicas != 1 {
		return fmt.Errorf("replicas are %d, not the default", *applied.Spec.Replicas)
	}
	return nil
}

// fiftyUpdaters count up one object at once by client-go's own retries: nothing is lost.
func fiftyUpdaters(w *world) error {
	if err := w.put("counter", "0"); err != nil {
		return err
	}
	client := w.client.CoreV1().ConfigMaps(w.namespace)
	backoff := wait.Backoff{Steps: 1000, Duration: 5 * time.Millisecond, Factor: 1, Jitter: 1}
	var group sync.WaitGroup
	var conflicts atomic.Int64
	failures := make(chan error, 50)
	for range 50 {
		group.Go(func() {
			failures <- retry.RetryOnConflict(backoff, func() error {
				object, err := client.Get(w, "counter", metav1.GetOptions{})
				if err != nil {
					return err
				}
				count, err := strconv.Atoi(object.Data["k"])
				if err != nil {
					return err
				}
				object.Data["k"] = strconv.Itoa(count + 1)
				_, err = client.Update(w, object, metav1.UpdateOptions{})
				if apierrors.IsConflict(err) {
					conflicts.Add(1)
				}
				return err
			})
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			return err
		}
	}
	object, err := client.Get(w, "counter", metav1.GetOptions{})
	if err == nil && object.Data["k"] != "50" {
		err = fmt.Errorf("50 updates count %s (%d conflicts)", object.Data["k"], conflicts.Load())
	}
	return err
}

// leaderElection has three candidates for one Lease: one leads, and when it steps down another does; never two at once.
func leaderElection(w *world) error {
	var leading, most, terms atomic.Int64
	candidate := func(ctx context.Context, name string, led func()) error {
		lock := &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Name: "lead", Namespace: w.namespace}, Client: w.client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		}
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, ReleaseOnCancel: true, LeaseDuration: 30 * time.Second, RenewDeadline: 20 * time.Second, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) {
					terms.Add(1)
					if now := leading.Add(1); now > most.Load() {
						most.Store(now)
					}
					led()
				},
				OnStoppedLeading: func() {},
			},
		})
		if err == nil {
			elector.Run(ctx)
		}
		return err
	}
	failures := make(chan error, 3)
	for i := range 3 {
		ctx, cancel := context.WithCancel(w)
		go func() {
			// Whoever leads steps down at once, and so all three get their turn.
			failures <- candidate(ctx, fmt.Sprint("candidate-", i), func() { leading.Add(-1); cancel() })
		}()
	}
	for range 3 {
		select {
		case err := <-failures:
			if err != nil {
				return err
			}
		case <-time.After(patience):
			return fmt.Errorf("%d of 3 candidates led within a minute", terms.Load())
		}
	}
	lease, err := w.client.CoordinationV1().Leases(w.namespace).Get(w, "lead", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if terms.Load() != 3 || most.Load() != 1 || *lease.Spec.LeaseTransitions != 2 {
		return fmt.Errorf("%d terms, %d leaders at once, %d transitions", terms.Load(), most.Load(), *lease.Spec.LeaseTransitions)
	}
	return nil
}
