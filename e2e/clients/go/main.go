// Does to a cluster, in the namespace given, what programs of client-go do. The kubeconfig is $KUBECONFIG's.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
)

const patience = 90 * time.Second

var ctx = context.Background()

func must(what string, err error) {
	if err != nil {
		fmt.Printf("%s: %v (%#v)\n", what, err, err)
		os.Exit(1)
	}
}

func check(good bool, format string, arguments ...any) {
	if !good {
		fmt.Printf(format+"\n", arguments...)
		os.Exit(1)
	}
}

func until(what string, reached func() bool) {
	for end := time.Now().Add(patience); !reached(); time.Sleep(100 * time.Millisecond) {
		check(time.Now().Before(end), "never came: %s", what)
	}
}

func step(format, name string) { fmt.Printf("ok: %s: %s\n", format, name) }

// Client is one client-go speaks with, in one format.
type client struct {
	kubernetes.Interface
	config    *rest.Config
	format    string
	namespace string
}

func (c *client) maps() {
	maps := c.CoreV1().ConfigMaps(c.namespace)
	made, err := maps.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "first", Labels: map[string]string{"of": "go"}},
		Data:       map[string]string{"a": "1"}, BinaryData: map[string][]byte{"raw": {0, 255}},
	}, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	must("create", err)
	again := made.DeepCopy()
	again.ResourceVersion = ""
	_, err = maps.Create(ctx, again, metav1.CreateOptions{})
	check(errors.IsAlreadyExists(err), "made twice: %v", err)
	patched, err := maps.Patch(ctx, "first", types.StrategicMergePatchType, []byte(`{"data":{"b":"2"}}`), metav1.PatchOptions{})
	must("strategic merge patch", err)
	check(patched.Data["a"] == "1" && patched.Data["b"] == "2", "patched: %v", patched.Data)
	patched, err = maps.Patch(ctx, "first", types.JSONPatchType, []byte(`[{"op":"remove","path":"/data/a"}]`), metav1.PatchOptions{})
	must("JSON patch", err)
	check(len(patched.Data) == 1 && bytes.Equal(patched.BinaryData["raw"], []byte{0, 255}), "patched: %v", patched)
	_, err = maps.Update(ctx, made, metav1.UpdateOptions{})
	check(errors.IsConflict(err), "an old version was written: %v", err)
	applied, err := maps.Apply(ctx, applycore.ConfigMap("first", c.namespace).WithData(map[string]string{"c": "3"}), metav1.ApplyOptions{FieldManager: "one"})
	must("apply", err)
	check(applied.Data["c"] == "3", "applied: %v", applied.Data)
	_, err = maps.Apply(ctx, applycore.ConfigMap("first", c.namespace).WithData(map[string]string{"c": "4"}), metav1.ApplyOptions{FieldManager: "two"})
	check(errors.IsConflict(err), "no conflict: %v", err)
	_, err = maps.Apply(ctx, applycore.ConfigMap("first", c.namespace).WithData(map[string]string{"c": "4"}), metav1.ApplyOptions{FieldManager: "two", Force: true})
	must("apply with force", err)
	_, err = maps.Get(ctx, "absent", metav1.GetOptions{})
	check(errors.IsNotFound(err), "not found: %v", err)
	_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "Not a name"}}, metav1.CreateOptions{})
	check(errors.IsInvalid(err), "invalid: %v", err)

	other := types.UID("another")
	err = maps.Delete(ctx, "first", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}})
	check(errors.IsConflict(err), "deleted against its precondition: %v", err)
	zero, background := int64(0), metav1.DeletePropagationBackground
	for n := range 7 {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%d", n), Labels: map[string]string{"of": "pages"}}}, metav1.CreateOptions{})
		must("create a page", err)
	}
	options, names := metav1.ListOptions{LabelSelector: "of=pages", Limit: 3}, 0
	for {
		list, err := maps.List(ctx, options)
		must("list", err)
		names += len(list.Items)
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	check(names == 7, "pages hold %d", names)
	must("delete a collection", maps.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &zero, PropagationPolicy: &background}, metav1.ListOptions{LabelSelector: "of=pages"}))
	list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "of=pages"})
	must("list", err)
	check(len(list.Items) == 0, "left: %v", list.Items)
	must("delete", maps.Delete(ctx, "first", metav1.DeleteOptions{
		GracePeriodSeconds: &zero, PropagationPolicy: &background,
		Preconditions: &metav1.Preconditions{UID: &made.UID},
	}))
	step(c.format, "ConfigMaps: create, patch, apply, list in pages, delete one and many")
}

// An informer as controllers have it; the stream of its list and what follows.
func (c *client) informer() {
	factory := informers.NewSharedInformerFactoryWithOptions(c.Interface, 0, informers.WithNamespace(c.namespace))
	told := make(chan string, 100)
	informer := factory.Core().V1().Secrets().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { told <- "added " + o.(*corev1.Secret).Name },
		UpdateFunc: func(_, o any) { told <- "updated " + string(o.(*corev1.Secret).Data["k"]) },
		DeleteFunc: func(any) { told <- "deleted" },
	})
	must("handler", err)
	stop := make(chan struct{})
	defer close(stop)
	secrets := c.CoreV1().Secrets(c.namespace)
	_, err = secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "before"}}, metav1.CreateOptions{})
	must("create", err)
	factory.Start(stop)
	synced := cache.WaitForCacheSync(stop, informer.HasSynced)
	check(synced, "the informer has no first list")
	expect := func(what string) {
		select {
		case text := <-told:
			check(text == what, "told %q instead of %q", text, what)
		case <-time.After(patience):
			check(false, "never told: %s", what)
		}
	}
	expect("added before")
	secret, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "after"}, StringData: map[string]string{"k": "1"}}, metav1.CreateOptions{})
	must("create", err)
	expect("added after")
	secret.Data["k"] = []byte("2")
	_, err = secrets.Update(ctx, secret, metav1.UpdateOptions{})
	must("update", err)
	expect("updated 2")
	must("delete", secrets.Delete(ctx, "after", metav1.DeleteOptions{}))
	expect("deleted")
	must("delete", secrets.Delete(ctx, "before", *metav1.NewDeleteOptions(0)))
	step(c.format, "an informer")
}

func shell(name, script string) corev1.PodSpec {
	one := int64(1)
	return corev1.PodSpec{
		Containers:                    []corev1.Container{{Name: name, Image: "busybox", Command: []string{"sh", "-c", script}}},
		TerminationGracePeriodSeconds: &one,
	}
}

func (c *client) pod() {
	pods := c.CoreV1().Pods(c.namespace)
	_, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "worker"}, Spec: shell("main", "echo ready; exec sleep 3600")}, metav1.CreateOptions{})
	must("create a pod", err)
	until("the worker runs", func() bool {
		pod, err := pods.Get(ctx, "worker", metav1.GetOptions{})
		must("get", err)
		return pod.Status.Phase == corev1.PodRunning
	})
	until("its log", func() bool {
		log, err := pods.GetLogs("worker", &corev1.PodLogOptions{Container: "main"}).Stream(ctx)
		must("log", err)
		text, err := io.ReadAll(log)
		must("log", err)
		return string(text) == "ready\n"
	})
	request := c.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.namespace).Name("worker").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "main", Command: []string{"sh", "-c", "cat; echo err >&2; exit 3"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	spdy, err := remotecommand.NewSPDYExecutor(c.config, "POST", request.URL())
	must("SPDY", err)
	socket, err := remotecommand.NewWebSocketExecutor(c.config, "GET", request.URL().String())
	must("WebSocket", err)
	for _, executor := range []remotecommand.Executor{spdy, socket} {
		var out, failed bytes.Buffer
		err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("typed"), Stdout: &out, Stderr: &failed})
		exit, told := err.(interface{ ExitStatus() int })
		check(told && exit.ExitStatus() == 3, "exec: %v", err)
		check(out.String() == "typed" && failed.String() == "err\n", "exec: %q %q", out.String(), failed.String())
	}
	zero := int64(0)
	eviction := &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Name: "worker", Namespace: c.namespace},
		DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: &zero, DryRun: []string{metav1.DryRunAll}},
	}
	must("evict, dry", pods.EvictV1(ctx, eviction))
	pod, err := pods.Get(ctx, "worker", metav1.GetOptions{})
	must("get", err)
	check(pod.DeletionTimestamp == nil, "a dry run evicted")
	eviction.DeleteOptions.DryRun = nil
	must("evict", pods.EvictV1(ctx, eviction))
	until("the evicted pod's end", func() bool {
		_, err := pods.Get(ctx, "worker", metav1.GetOptions{})
		return errors.IsNotFound(err)
	})
	step(c.format, "a pod: log, exec over SPDY and WebSocket, eviction")
}

func (c *client) deployment() {
	deployments, labels, one := c.AppsV1().Deployments(c.namespace), map[string]string{"app": "web"}, int32(1)
	_, err := deployments.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: shell("main", "exec sleep 3600")},
		},
	}, metav1.CreateOptions{})
	must("create a deployment", err)
	ready := func(count int32) func() bool {
		return func() bool {
			deployment, err := deployments.Get(ctx, "web", metav1.GetOptions{})
			must("get", err)
			return deployment.Status.ReadyReplicas == count
		}
	}
	until("one replica", ready(1))
	scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
	must("get the scale", err)
	scale.Spec.Replicas = 2
	_, err = deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{})
	must("scale", err)
	until("two replicas", ready(2))
	foreground := metav1.DeletePropagationForeground
	must("delete in the foreground", deployments.Delete(ctx, "web", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	until("the deployment's end", func() bool {
		_, err := deployments.Get(ctx, "web", metav1.GetOptions{})
		return errors.IsNotFound(err)
	})
	sets, err := c.AppsV1().ReplicaSets(c.namespace).List(ctx, metav1.ListOptions{})
	must("list", err)
	check(len(sets.Items) == 0, "in the foreground dependents go first: %v", sets.Items)
	step(c.format, "a Deployment: roll out, scale, delete in the foreground")
}

// The other clients of client-go: objects without types, and metadata alone.
func untyped(config *rest.Config, namespace string) {
	maps := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	objects, err := dynamic.NewForConfig(config)
	must("dynamic client", err)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "dynamic"}, "data": map[string]any{"a": "1"},
	}}
	made, err := objects.Resource(maps).Namespace(namespace).Create(ctx, object, metav1.CreateOptions{})
	must("create", err)
	parts, err := metadata.NewForConfig(config)
	must("metadata client", err)
	found, err := parts.Resource(maps).Namespace(namespace).Get(ctx, "dynamic", metav1.GetOptions{})
	must("metadata", err)
	check(found.UID == made.GetUID(), "metadata: %v", found)
	must("delete by the metadata client", parts.Resource(maps).Namespace(namespace).Delete(ctx, "dynamic", metav1.DeleteOptions{}))
	_, err = objects.Resource(maps).Namespace(namespace).Get(ctx, "dynamic", metav1.GetOptions{})
	check(errors.IsNotFound(err), "not deleted: %v", err)
	step("dynamic", "create, metadata, delete")
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must("kubeconfig", err)
	config.QPS = -1
	for _, format := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		config := rest.CopyConfig(config)
		config.ContentType = format
		config.AcceptContentTypes = format + ",application/json"
		set, err := kubernetes.NewForConfig(config)
		must("client", err)
		version, err := set.Discovery().ServerVersion()
		must("version", err)
		check(version.Minor == "35", "version: %v", version)
		client := &client{set, config, format, os.Args[1]}
		client.maps()
		client.informer()
		client.pod()
		client.deployment()
	}
	untyped(config, os.Args[1])
}
