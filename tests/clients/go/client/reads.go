package main

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/pager"
	"k8s.io/utils/ptr"
)

// fill makes `count` ConfigMaps by some writers at once.
func (w *world) fill(count int) error {
	const writers = 16
	failures := make(chan error, writers)
	var group sync.WaitGroup
	for writer := range writers {
		group.Go(func() {
			for i := writer; i < count; i += writers {
				if err := w.put(fmt.Sprintf("object-%05d", i), "0"); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(failures)
	return <-failures
}

// watchList asks for the initial events of 5,000 objects: each one, once, and then the bookmark.
func watchList(w *world) error {
	const count = 5000
	if err := w.fill(count); err != nil {
		return err
	}
	events, err := w.client.CoreV1().ConfigMaps(w.namespace).Watch(w, metav1.ListOptions{
		SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		LabelSelector: "made-by=client",
	})
	if err != nil {
		return err
	}
	defer events.Stop()
	names := map[string]bool{}
	for event := range events.ResultChan() {
		object, ok := event.Object.(*corev1.ConfigMap)
		if !ok {
			return fmt.Errorf("after %d objects: %v %v", len(names), event.Type, event.Object)
		}
		if event.Type == watch.Bookmark {
			if object.Annotations[metav1.InitialEventsAnnotationKey] != "true" || len(names) != count {
				return fmt.Errorf("a bookmark %v after %d objects", object.Annotations, len(names))
			}
			return nil
		}
		if event.Type != watch.Added || names[object.Name] {
			return fmt.Errorf("%v %v, once more or out of turn", event.Type, object.Name)
		}
		names[object.Name] = true
	}
	return fmt.Errorf("the watch ended after %d objects without its bookmark", len(names))
}

// pagedList reads in pages while objects come and go: it is one state of the past. A token of nobody's is refused.
func pagedList(w *world) error {
	if err := w.fill(250); err != nil {
		return err
	}
	pages, names := 0, map[string]bool{}
	list := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		pages++
		if pages == 2 {
			if err := w.remove("object-00249"); err != nil {
				return nil, err
			}
			if err := w.put("object-99999", "0"); err != nil {
				return nil, err
			}
		}
		options.LabelSelector = "made-by=client"
		return w.client.CoreV1().ConfigMaps(w.namespace).List(ctx, options)
	})
	list.PageSize = 100
	err := list.EachListItem(w, metav1.ListOptions{}, func(object runtime.Object) error {
		names[object.(*corev1.ConfigMap).Name] = true
		return nil
	})
	if err != nil {
		return err
	}
	if pages != 3 || len(names) != 250 || !names["object-00249"] || names["object-99999"] {
		return fmt.Errorf("%d pages, %d objects, the deleted one: %v, the new one: %v", pages, len(names), names["object-00249"], names["object-99999"])
	}
	_, err = w.client.CoreV1().ConfigMaps(w.namespace).List(w, metav1.ListOptions{Limit: 10, Continue: "bm90IG91cnM"})
	if !apierrors.IsBadRequest(err) {
		return fmt.Errorf("a foreign token was answered with %v", err)
	}
	return nil
}
