// Typical calls of client-go, and what comes back as upstream's server answers. Run by tests/clients/client_go.rs with
// KUBECONFIG set, against a server without controllers.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/retry"
)

const namespace = "default"

// How long anything may take; far above what it does take.
const limit = 30 * time.Second

func must[T any](value T, err error) T {
	if err != nil {
		fail("%v", err)
	}
	return value
}

func check(good bool, format string, arguments ...any) {
	if !good {
		fail(format, arguments...)
	}
}

func fail(format string, arguments ...any) {
	panic(fmt.Sprintf(format, arguments...))
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	container := corev1.Container{Name: "main", Image: "registry.example/main:1"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{container}},
			},
		},
	}
}

func configMap(name, app string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Data:       map[string]string{"count": "0"},
	}
}

type script struct {
	ctx    context.Context
	config *rest.Config
	client kubernetes.Interface
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	config := must(clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")))
	config.QPS, config.Burst = 1000, 1000
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		typed := rest.CopyConfig(config)
		typed.ContentType = contentType
		typed.AcceptContentTypes = contentType + ",application/json"
		s := script{ctx, config, must(kubernetes.NewForConfig(typed))}
		for _, step := range []struct {
			name string
			run  func()
		}{
			{"objects", s.objects}, {"errors", s.errors}, {"conflicts", s.conflicts}, {"patches", s.patches},
			{"apply", s.apply}, {"pages", s.pages}, {"watches", s.watches}, {"informers", s.informers},
			{"subresources", s.subresources}, {"reviews", s.reviews}, {"election", s.election},
			{"dynamic", s.dynamic}, {"metadata", s.metadata}, {"discovery", s.discovery},
		} {
			step.run()
			fmt.Println("ok", contentType, step.name)
		}
	}
}

func (s script) objects() {
	api := s.client.AppsV1().Deployments(namespace)
	made := must(api.Create(s.ctx, deployment("objects"), metav1.CreateOptions{}))
	check(made.UID != "" && made.Generation == 1 && *made.Spec.Replicas == 1, "defaults: %+v", made)
	check(made.Spec.Strategy.RollingUpdate.MaxSurge.String() == "25%", "strategy: %+v", made.Spec.Strategy)
	read := must(api.Get(s.ctx, "objects", metav1.GetOptions{}))
	check(read.ResourceVersion == made.ResourceVersion, "version %s", read.ResourceVersion)
	list := must(api.List(s.ctx, metav1.ListOptions{LabelSelector: "app=objects"}))
	check(len(list.Items) == 1, "%d items", len(list.Items))
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	must(api.Create(s.ctx, deployment("dry"), dry))
	_, err := api.Get(s.ctx, "dry", metav1.GetOptions{})
	check(apierrors.IsNotFound(err), "dry run: %v", err)
	check(api.Delete(s.ctx, "objects", metav1.DeleteOptions{}) == nil, "delete")
}

func (s script) errors() {
	maps := s.client.CoreV1().ConfigMaps(namespace)
	_, err := maps.Get(s.ctx, "absent", metav1.GetOptions{})
	check(apierrors.IsNotFound(err) && err.Error() == `configmaps "absent" not found`, "%v", err)
	must(maps.Create(s.ctx, configMap("twice", "errors"), metav1.CreateOptions{}))
	_, err = maps.Create(s.ctx, configMap("twice", "errors"), metav1.CreateOptions{})
	check(apierrors.IsAlreadyExists(err), "%v", err)
	uid := types.UID("another")
	err = maps.Delete(s.ctx, "twice", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	check(apierrors.IsConflict(err), "%v", err)
	check(maps.Delete(s.ctx, "twice", metav1.DeleteOptions{}) == nil, "delete")
	wrong := deployment("wrong")
	wrong.Spec.Selector.MatchLabels = map[string]string{"app": "other"}
	wrong.Spec.Template.Spec.Containers[0].Name = ""
	_, err = s.client.AppsV1().Deployments(namespace).Create(s.ctx, wrong, metav1.CreateOptions{})
	check(apierrors.IsInvalid(err), "%v", err)
	causes := err.(apierrors.APIStatus).Status().Details.Causes
	found := []string{}
	for _, cause := range causes {
		found = append(found, cause.Field)
	}
	check(len(causes) == 2, "causes: %v", found)
}

func (s script) conflicts() {
	maps := s.client.CoreV1().ConfigMaps(namespace)
	stale := must(maps.Create(s.ctx, configMap("counter", "conflicts"), metav1.CreateOptions{}))
	done := make(chan error)
	for range 5 {
		go func() {
			done <- retry.OnError(retry.DefaultBackoff, apierrors.IsConflict, func() error {
				current, err := maps.Get(s.ctx, "counter", metav1.GetOptions{})
				if err != nil {
					return err
				}
				current.Data["count"] += "+"
				_, err = maps.Update(s.ctx, current, metav1.UpdateOptions{})
				return err
			})
		}()
	}
	succeeded := 0
	for range 5 {
		if <-done == nil {
			succeeded++
		}
	}
	current := must(maps.Get(s.ctx, "counter", metav1.GetOptions{}))
	check(strings.Count(current.Data["count"], "+") == succeeded, "%s after %d", current.Data["count"], succeeded)
	stale.Data["count"] = "lost"
	_, err := maps.Update(s.ctx, stale, metav1.UpdateOptions{})
	check(apierrors.IsConflict(err), "%v", err)
	check(maps.Delete(s.ctx, "counter", metav1.DeleteOptions{}) == nil, "delete")
}

func (s script) patches() {
	api := s.client.AppsV1().Deployments(namespace)
	must(api.Create(s.ctx, deployment("patches"), metav1.CreateOptions{}))
	patch := func(kind types.PatchType, text string, subresources ...string) *appsv1.Deployment {
		return must(api.Patch(s.ctx, "patches", kind, []byte(text), metav1.PatchOptions{}, subresources...))
	}
	added := `{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"registry.example/side:1"}]}}}}`
	check(len(patch(types.StrategicMergePatchType, added).Spec.Template.Spec.Containers) == 2, "merged by name")
	check(patch(types.MergePatchType, `{"metadata":{"labels":{"app":null,"b":"c"}}}`).Labels["b"] == "c", "merge")
	replicas := `[{"op":"test","path":"/spec/replicas","value":1},{"op":"replace","path":"/spec/replicas","value":3}]`
	check(*patch(types.JSONPatchType, replicas).Spec.Replicas == 3, "JSON patch")
	status := patch(types.MergePatchType, `{"status":{"replicas":7},"spec":{"replicas":9}}`, "status")
	check(status.Status.Replicas == 7 && *status.Spec.Replicas == 3, "status: %+v", status.Status)
	check(api.Delete(s.ctx, "patches", metav1.DeleteOptions{}) == nil, "delete")
}

func (s script) apply() {
	api := s.client.AppsV1().Deployments(namespace)
	wanted := func(replicas int32, image string) *appsapply.DeploymentApplyConfiguration {
		labels := map[string]string{"app": "apply"}
		pod := coreapply.PodSpec().WithContainers(coreapply.Container().WithName("main").WithImage(image))
		return appsapply.Deployment("apply", namespace).WithSpec(appsapply.DeploymentSpec().
			WithReplicas(replicas).
			WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).WithSpec(pod)))
	}
	one := metav1.ApplyOptions{FieldManager: "one"}
	must(api.Apply(s.ctx, wanted(1, "registry.example/main:1"), one))
	_, err := api.Apply(s.ctx, wanted(2, "registry.example/main:1"), metav1.ApplyOptions{FieldManager: "two"})
	check(apierrors.IsConflict(err) && strings.Contains(err.Error(), `conflict with "one"`), "%v", err)
	forced := must(api.Apply(s.ctx, wanted(2, "registry.example/main:1"), metav1.ApplyOptions{FieldManager: "two", Force: true}))
	check(*forced.Spec.Replicas == 2, "forced")
	extracted := must(appsapply.ExtractDeployment(forced, "two"))
	check(extracted.Spec != nil && *extracted.Spec.Replicas == 2, "extracted")
	check(api.Delete(s.ctx, "apply", metav1.DeleteOptions{}) == nil, "delete")
}

func (s script) pages() {
	maps := s.client.CoreV1().ConfigMaps(namespace)
	for number := range 25 {
		must(maps.Create(s.ctx, configMap(fmt.Sprintf("page-%02d", number), "pages"), metav1.CreateOptions{}))
	}
	first := must(maps.List(s.ctx, metav1.ListOptions{LabelSelector: "app=pages", Limit: 10}))
	check(len(first.Items) == 10 && first.Continue != "", "%d of the first page", len(first.Items))
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return maps.List(ctx, options)
	})
	pages.PageSize = 7
	seen := 0
	err := pages.EachListItem(s.ctx, metav1.ListOptions{LabelSelector: "app=pages"}, func(runtime.Object) error {
		seen++
		return nil
	})
	check(err == nil && seen == 25, "%d of 25, %v", seen, err)
	err = maps.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=pages"})
	check(err == nil, "%v", err)
	left := must(maps.List(s.ctx, metav1.ListOptions{LabelSelector: "app=pages"}))
	check(len(left.Items) == 0, "%d left", len(left.Items))
}

func (s script) watches() {
	maps := s.client.CoreV1().ConfigMaps(namespace)
	list := must(maps.List(s.ctx, metav1.ListOptions{}))
	byName := fields.OneTermEqualSelector("metadata.name", "watched").String()
	watcher := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		options.FieldSelector = byName
		return maps.Watch(ctx, options)
	}}
	made := must(maps.Create(s.ctx, configMap("watched", "watches"), metav1.CreateOptions{}))
	made.Data["count"] = "1"
	must(maps.Update(s.ctx, made, metav1.UpdateOptions{}))
	must(maps.Create(s.ctx, configMap("other", "watches"), metav1.CreateOptions{}))
	check(maps.Delete(s.ctx, "watched", metav1.DeleteOptions{}) == nil, "delete")
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	kinds := []string{}
	_, err := watchtools.Until(ctx, list.ResourceVersion, watcher, func(event watch.Event) (bool, error) {
		kinds = append(kinds, string(event.Type))
		return event.Type == watch.Deleted, nil
	})
	check(err == nil && strings.Join(kinds, " ") == "ADDED MODIFIED DELETED", "%v %v", kinds, err)
	check(maps.Delete(s.ctx, "other", metav1.DeleteOptions{}) == nil, "delete")
}

func (s script) informers() {
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	must(s.client.CoreV1().ConfigMaps(namespace).Create(s.ctx, configMap("before", "informers"), metav1.CreateOptions{}))
	factory := informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithNamespace(namespace))
	maps := factory.Core().V1().ConfigMaps()
	told := make(chan string, 100)
	must(maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { told <- "add " + object.(*corev1.ConfigMap).Name },
		UpdateFunc: func(_, object any) { told <- "update " + object.(*corev1.ConfigMap).Name },
		DeleteFunc: func(object any) { told <- "delete " + must(meta.Accessor(object)).GetName() },
	}))
	factory.Start(ctx.Done())
	check(cache.WaitForCacheSync(ctx.Done(), maps.Informer().HasSynced), "the informer did not sync")
	must(maps.Lister().ConfigMaps(namespace).Get("before"))
	after := must(s.client.CoreV1().ConfigMaps(namespace).Create(s.ctx, configMap("after", "informers"), metav1.CreateOptions{}))
	after.Data["count"] = "1"
	must(s.client.CoreV1().ConfigMaps(namespace).Update(s.ctx, after, metav1.UpdateOptions{}))
	for _, name := range []string{"after", "before"} {
		check(s.client.CoreV1().ConfigMaps(namespace).Delete(s.ctx, name, metav1.DeleteOptions{}) == nil, "delete")
	}
	seen := ""
	for !strings.Contains(seen, "delete before") {
		select {
		case one := <-told:
			seen += one + "; "
		case <-ctx.Done():
			fail("told only of %s", seen)
		}
	}
	check(strings.Contains(seen, "add before; ") && strings.Contains(seen, "add after; update after; delete after; "), "%s", seen)
}

func (s script) subresources() {
	api := s.client.AppsV1().Deployments(namespace)
	must(api.Create(s.ctx, deployment("scaled"), metav1.CreateOptions{}))
	scale := must(api.GetScale(s.ctx, "scaled", metav1.GetOptions{}))
	check(scale.Spec.Replicas == 1 && scale.Status.Selector == "app=scaled", "%+v", scale)
	scale.Spec.Replicas = 4
	must(api.UpdateScale(s.ctx, "scaled", scale, metav1.UpdateOptions{}))
	check(*must(api.Get(s.ctx, "scaled", metav1.GetOptions{})).Spec.Replicas == 4, "scaled")
	check(api.Delete(s.ctx, "scaled", metav1.DeleteOptions{}) == nil, "delete")
	pods := s.client.CoreV1().Pods(namespace)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Spec: deployment("bound").Spec.Template.Spec}
	must(pods.Create(s.ctx, pod, metav1.CreateOptions{}))
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	check(pods.Bind(s.ctx, binding, metav1.CreateOptions{}) == nil, "bind")
	bound := must(pods.Get(s.ctx, "bound", metav1.GetOptions{}))
	check(bound.Spec.NodeName == "n1", "bound to %q", bound.Spec.NodeName)
	bound.Status.Phase = corev1.PodRunning
	check(must(pods.UpdateStatus(s.ctx, bound, metav1.UpdateOptions{})).Status.Phase == corev1.PodRunning, "status")
	now := int64(0)
	check(pods.Delete(s.ctx, "bound", metav1.DeleteOptions{GracePeriodSeconds: &now}) == nil, "delete")
}

func (s script) reviews() {
	attributes := &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "create", Resource: "pods"}
	review := must(s.client.AuthorizationV1().SelfSubjectAccessReviews().Create(s.ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes},
	}, metav1.CreateOptions{}))
	check(review.Status.Allowed, "%+v", review.Status)
	seconds := int64(600)
	token := must(s.client.CoreV1().ServiceAccounts(namespace).CreateToken(s.ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{}))
	account := rest.AnonymousClientConfig(s.config)
	account.BearerToken = token.Status.Token
	client := must(kubernetes.NewForConfig(account))
	who := must(client.AuthenticationV1().SelfSubjectReviews().Create(s.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))
	check(who.Status.UserInfo.Username == "system:serviceaccount:default:default", "%+v", who.Status)
	_, err := client.CoreV1().Secrets(namespace).List(s.ctx, metav1.ListOptions{})
	check(apierrors.IsForbidden(err), "%v", err)
}

func (s script) election() {
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	lead := make(chan string, 2)
	stopped := make(chan struct{}, 2)
	run := func(ctx context.Context, name string) {
		lock := must(resourcelock.New(resourcelock.LeasesResourceLock, namespace, "election", nil, s.client.CoordinationV1(),
			resourcelock.ResourceLockConfig{Identity: name}))
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 100 * time.Millisecond,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { lead <- name },
				OnStoppedLeading: func() { stopped <- struct{}{} },
			},
		})
	}
	first, endFirst := context.WithCancel(ctx)
	go run(first, "first")
	check(<-lead == "first", "the first leads")
	second, endSecond := context.WithCancel(ctx)
	go run(second, "second")
	endFirst()
	check(<-lead == "second", "the second follows")
	endSecond()
	<-stopped
	<-stopped
	check(s.client.CoordinationV1().Leases(namespace).Delete(s.ctx, "election", metav1.DeleteOptions{}) == nil, "delete")
}

func (s script) dynamic() {
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.client.Discovery()))
	mapping := must(mapper.RESTMapping(schema.GroupKind{Group: "batch", Kind: "CronJob"}, "v1"))
	check(mapping.Resource.Resource == "cronjobs" && mapping.Scope.Name() == meta.RESTScopeNameNamespace, "%+v", mapping)
	api := must(dynamic.NewForConfig(s.config)).Resource(mapping.Resource).Namespace(namespace)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "batch/v1", "kind": "CronJob", "metadata": map[string]any{"name": "dynamic"},
		"spec": map[string]any{"schedule": "*/5 * * * *", "jobTemplate": map[string]any{"spec": map[string]any{
			"template": map[string]any{"spec": map[string]any{"restartPolicy": "Never", "containers": []any{
				map[string]any{"name": "main", "image": "registry.example/main:1"}}}}}}},
	}}
	made := must(api.Create(s.ctx, object, metav1.CreateOptions{}))
	policy, _, _ := unstructured.NestedString(made.Object, "spec", "concurrencyPolicy")
	check(policy == "Allow", "defaulted to %q", policy)
	object.Object["spec"].(map[string]any)["unknown"] = "field"
	object.SetName("strict")
	_, err := api.Create(s.ctx, object, metav1.CreateOptions{FieldValidation: "Strict"})
	check(apierrors.IsBadRequest(err) && strings.Contains(err.Error(), `unknown field "spec.unknown"`), "%v", err)
	check(api.Delete(s.ctx, "dynamic", metav1.DeleteOptions{}) == nil, "delete")
}

func (s script) metadata() {
	must(s.client.CoreV1().ConfigMaps(namespace).Create(s.ctx, configMap("partial", "metadata"), metav1.CreateOptions{}))
	api := must(metadata.NewForConfig(s.config)).Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(namespace)
	list := must(api.List(s.ctx, metav1.ListOptions{LabelSelector: "app=metadata"}))
	check(len(list.Items) == 1 && list.Items[0].Name == "partial", "%+v", list.Items)
	check(api.Delete(s.ctx, "partial", metav1.DeleteOptions{}) == nil, "delete")
}

func (s script) discovery() {
	version := must(s.client.Discovery().ServerVersion())
	check(version.Major == "1" && version.Minor == "36", "%+v", version)
	_, lists, err := s.client.Discovery().ServerGroupsAndResources()
	check(err == nil && len(lists) > 20, "%d groups, %v", len(lists), err)
	document := must(s.client.Discovery().OpenAPISchema())
	check(len(document.GetDefinitions().GetAdditionalProperties()) > 300, "definitions")
	paths := must(s.client.Discovery().OpenAPIV3().Paths())
	must(paths["apis/apps/v1"].Schema("application/json"))
}
