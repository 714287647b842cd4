//! Manifests that several tests use.

/// A pod of one busybox container that runs a shell command.
pub(crate) fn shell_pod(name: &str, script: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sh, -c, {script:?}]
"
    )
}

/// A Deployment of nginx as the tutorial has it.
pub(crate) fn nginx_deployment(name: &str, image: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  replicas: {replicas}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      containers:
      - name: nginx
        image: {image}
        ports:
        - containerPort: 80
        readinessProbe:
          httpGet: {{path: /, port: 80}}
          periodSeconds: 1
        lifecycle:
          preStop:
            sleep: {{seconds: 2}}
"
    )
}
