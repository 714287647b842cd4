// Does to a cluster, in the namespace given, what programs of the JavaScript client do. The kubeconfig is $KUBECONFIG's.

import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

import * as k8s from '@kubernetes/client-node';

const PATIENCE = 90_000;
const namespace = process.argv[2];
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);

const step = (name) => console.log(`ok: ${name}`);

async function until(what, reached) {
  const end = Date.now() + PATIENCE;
  while (!(await reached())) {
    if (Date.now() > end) throw new Error(`never came: ${what}`);
    await sleep(100);
  }
}

async function refused(code, call) {
  try {
    await call();
  } catch (error) {
    assert.equal(error.code, code, `${error.code} instead of ${code}: ${error.body ?? error}`);
    return;
  }
  throw new Error(`not refused with ${code}`);
}

async function isGone(read) {
  try {
    await read();
    return false;
  } catch (error) {
    assert.equal(error.code, 404, `${error}`);
    return true;
  }
}

const text = (stream) => {
  const seen = { text: '' };
  stream.on('data', (chunk) => (seen.text += chunk));
  return seen;
};

async function configMaps() {
  const made = await core.createNamespacedConfigMap({
    namespace,
    body: { metadata: { name: 'first', labels: { of: 'js' } }, data: { a: '1' } },
  });
  assert.ok(made.metadata.creationTimestamp instanceof Date);
  await refused(409, () => core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'first' } } }));
  await refused(422, () => core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'Not a name' } } }));
  const patch = (strategy, body) =>
    core.patchNamespacedConfigMap(
      { name: 'first', namespace, body, fieldManager: 'js', force: strategy === k8s.PatchStrategy.ServerSideApply || undefined },
      k8s.setHeaderOptions('Content-Type', strategy),
    );
  assert.deepEqual((await patch(k8s.PatchStrategy.MergePatch, { data: { b: '2' } })).data, { a: '1', b: '2' });
  assert.deepEqual((await patch(k8s.PatchStrategy.StrategicMergePatch, { data: { a: null } })).data, { b: '2' });
  const replaced = await patch(k8s.PatchStrategy.JsonPatch, [{ op: 'replace', path: '/data/b', value: '3' }]);
  assert.deepEqual(replaced.data, { b: '3' });
  const applied = await patch(k8s.PatchStrategy.ServerSideApply, {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'first' },
    data: { c: '4' },
  });
  assert.deepEqual(applied.data, { b: '3', c: '4' });
  const stale = structuredClone({ ...replaced, metadata: { ...replaced.metadata } });
  await refused(409, () => core.replaceNamespacedConfigMap({ name: 'first', namespace, body: stale }));
  for (let n = 0; n < 7; n++) {
    const metadata = { name: `page-${n}`, labels: { of: 'pages' } };
    await core.createNamespacedConfigMap({ namespace, body: { metadata } });
  }
  const names = [];
  let _continue;
  do {
    const page = await core.listNamespacedConfigMap({ namespace, labelSelector: 'of=pages', limit: 3, _continue });
    names.push(...page.items.map((item) => item.metadata.name));
    _continue = page.metadata._continue;
  } while (_continue);
  assert.deepEqual(names, [...Array(7).keys()].map((n) => `page-${n}`));
  await core.deleteCollectionNamespacedConfigMap({ namespace, labelSelector: 'of=pages' });
  assert.deepEqual((await core.listNamespacedConfigMap({ namespace, labelSelector: 'of=pages' })).items, []);
  await core.deleteNamespacedConfigMap({ name: 'first', namespace });
  assert.ok(await isGone(() => core.readNamespacedConfigMap({ name: 'first', namespace })));
  step('ConfigMaps: create, list in pages, every patch, replace, delete one and many');
}

async function informers() {
  const seen = [];
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/secrets`, () =>
    core.listNamespacedSecret({ namespace }),
  );
  informer.on('add', (secret) => seen.push(`add ${secret.metadata.name}`));
  informer.on('update', (secret) => seen.push(`update ${secret.metadata.name}`));
  informer.on('delete', (secret) => seen.push(`delete ${secret.metadata.name}`));
  informer.on('error', (error) => seen.push(`error ${error}`));
  await core.createNamespacedSecret({ namespace, body: { metadata: { name: 'before' }, stringData: { k: 'v' } } });
  await informer.start();
  await until('the secret of before', () => seen.includes('add before'));
  await core.createNamespacedSecret({ namespace, body: { metadata: { name: 'after' } } });
  await until('the new secret', () => seen.includes('add after'));
  await core.patchNamespacedSecret(
    { name: 'after', namespace, body: { metadata: { annotations: { x: 'y' } } } },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch),
  );
  await until('its change', () => seen.includes('update after'));
  await core.deleteNamespacedSecret({ name: 'after', namespace });
  await until('its end', () => seen.includes('delete after'));
  assert.equal(informer.get('before', namespace).metadata.name, 'before');
  assert.ok(!seen.some((event) => event.startsWith('error')), `${seen}`);
  await informer.stop();
  step('an informer lists, watches and keeps');
}

const shell = (script) => ({
  terminationGracePeriodSeconds: 1,
  containers: [{ name: 'main', image: 'busybox', command: ['sh', '-c', script] }],
});

async function pods() {
  const body = { metadata: { name: 'worker' }, spec: shell('echo ready; exec sleep 3600') };
  await core.createNamespacedPod({ namespace, body });
  const phase = async () => (await core.readNamespacedPod({ name: 'worker', namespace })).status.phase;
  await until('the worker runs', async () => (await phase()) === 'Running');
  const log = new PassThrough();
  const logged = text(log);
  const following = await new k8s.Log(config).log(namespace, 'worker', 'main', log, { follow: true });
  await until('its log', () => logged.text === 'ready\n');
  following.abort();
  const exec = async (script, input) => {
    const [out, err, stdin] = [new PassThrough(), new PassThrough(), input === undefined ? null : new PassThrough()];
    const [printed, complained] = [text(out), text(err)];
    let status;
    await new k8s.Exec(config).exec(namespace, 'worker', 'main', ['sh', '-c', script], out, err, stdin, false, (s) => {
      status = s;
    });
    stdin?.end(input);
    await until('the end of the command', () => status !== undefined);
    return { out: printed.text, err: complained.text, status };
  };
  const fine = await exec('read line; echo "out $line"; echo err >&2', 'typed\n');
  assert.deepEqual([fine.out, fine.err, fine.status.status], ['out typed\n', 'err\n', 'Success']);
  const failing = await exec('exit 3');
  assert.equal(failing.status.details.causes.find((cause) => cause.reason === 'ExitCode').message, '3');
  step('a pod: its log followed, exec with all streams, its exit code');
  const evict = (deleteOptions) =>
    core.createNamespacedPodEviction({
      name: 'worker',
      namespace,
      body: { metadata: { name: 'worker', namespace }, deleteOptions },
    });
  await evict({ gracePeriodSeconds: 0 });
  await until('the end of the evicted pod', () => isGone(() => core.readNamespacedPod({ name: 'worker', namespace })));
  step('eviction');
}

async function deployments() {
  const labels = { app: 'web' };
  const template = { metadata: { labels }, spec: shell('exec sleep 3600') };
  const spec = { replicas: 1, selector: { matchLabels: labels }, template };
  await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'web' }, spec } });
  const ready = async () => (await apps.readNamespacedDeploymentStatus({ name: 'web', namespace })).status.readyReplicas;
  await until('one replica', async () => (await ready()) === 1);
  const scale = await apps.readNamespacedDeploymentScale({ name: 'web', namespace });
  scale.spec.replicas = 2;
  await apps.replaceNamespacedDeploymentScale({ name: 'web', namespace, body: scale });
  await until('two replicas', async () => (await ready()) === 2);
  await apps.deleteNamespacedDeployment({ name: 'web', namespace, propagationPolicy: 'Foreground' });
  await until('its end', () => isGone(() => apps.readNamespacedDeployment({ name: 'web', namespace })));
  step('a Deployment: roll out, scale, delete in the foreground');
}

// The untyped client writes `_default` for `default`, and finds kinds in discovery, custom ones as well.
async function customResources() {
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const group = `js-${namespace}.example.com`;
  const schema = {
    openAPIV3Schema: {
      type: 'object',
      properties: {
        spec: { type: 'object', properties: { size: { type: 'integer', minimum: 1 }, tier: { type: 'string', _default: 'low' } } },
      },
    },
  };
  const definition = {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `gadgets.${group}` },
    spec: {
      group,
      scope: 'Namespaced',
      names: { plural: 'gadgets', singular: 'gadget', kind: 'Gadget', listKind: 'GadgetList' },
      versions: [{ name: 'v1', served: true, storage: true, schema }],
    },
  };
  await objects.create(definition);
  const custom = config.makeApiClient(k8s.CustomObjectsApi);
  const place = { group, version: 'v1', namespace, plural: 'gadgets' };
  await until('the new kind is served', async () => !(await isGone(() => custom.listNamespacedCustomObject(place))));
  const gadget = (size) => ({
    apiVersion: `${group}/v1`,
    kind: 'Gadget',
    metadata: { name: 'one', namespace },
    spec: { size, unknown: true },
  });
  const made = await objects.create(gadget(3));
  assert.deepEqual(made.spec, { size: 3, tier: 'low' });
  await refused(422, () => objects.create({ ...gadget(0), metadata: { name: 'two', namespace } }));
  assert.equal((await custom.listNamespacedCustomObject(place)).items.length, 1);
  await objects.delete(definition);
  await until('the end of the kind', () => isGone(() => objects.read(definition)));
  await until('the end of its objects', () => isGone(() => custom.listNamespacedCustomObject(place)));
  step('custom resources: defined, served, defaulted, pruned, checked, deleted with their definition');
}

await configMaps();
await informers();
await pods();
await deployments();
await customResources();
