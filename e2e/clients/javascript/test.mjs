// The official JavaScript client: CRUD, patches, watch, informer, custom objects.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const custom = config.makeApiClient(k8s.CustomObjectsApi);
const namespace = 'default';
const shown = (what) => console.log(`ok javascript ${what}`);

async function refused(code, call) {
  await assert.rejects(call, (e) => e.code === code || assert.fail(`${code}: ${e}`));
}

/** Waits until something holds. */
async function eventually(what, holds) {
  for (let i = 0; i < 200; i++) {
    if (holds()) return;
    await sleep(50);
  }
  assert.fail(what);
}

async function objects() {
  const labels = { app: 'd' };
  const body = {
    metadata: { name: 'd', labels },
    spec: { replicas: 2, selector: { matchLabels: labels }, template: { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'registry.invalid/a' }] } } },
  };
  const made = await apps.createNamespacedDeployment({ namespace, body });
  assert.equal(made.spec.strategy.type, 'RollingUpdate');
  assert.ok(made.metadata.creationTimestamp instanceof Date);
  await refused(409, () => apps.createNamespacedDeployment({ namespace, body }));
  await refused(404, () => apps.readNamespacedDeployment({ namespace, name: 'no' }));
  made.spec.replicas = 3;
  const changed = await apps.replaceNamespacedDeployment({ namespace, name: 'd', body: made });
  assert.equal(changed.metadata.generation, 2);
  await refused(409, () => apps.replaceNamespacedDeployment({ namespace, name: 'd', body: made }));
  const patch = (strategy, body) => apps.patchNamespacedDeployment({ namespace, name: 'd', body }, k8s.setHeaderOptions('Content-Type', strategy));
  const p = k8s.PatchStrategy;
  assert.equal((await patch(p.JsonPatch, [{ op: 'replace', path: '/spec/replicas', value: 5 }])).spec.replicas, 5);
  assert.equal((await patch(p.MergePatch, { spec: { replicas: 6 } })).spec.replicas, 6);
  const both = await patch(p.StrategicMergePatch, { spec: { template: { spec: { containers: [{ name: 'side', image: 'x' }] } } } });
  assert.equal(both.spec.template.spec.containers.length, 2);
  const scale = await apps.readNamespacedDeploymentScale({ namespace, name: 'd' });
  assert.equal(scale.spec.replicas, 6);
  await apps.deleteNamespacedDeployment({ namespace, name: 'd' });
  shown('create, read, replace, conflicts, three patches, scale, delete');
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'o', namespace }, data: { a: '1' } };
  await objects.create(map);
  const applied = await objects.patch({ ...map, data: { a: '2' } }, undefined, undefined, 'js', true, p.ServerSideApply);
  assert.equal(applied.data.a, '2');
  assert.equal((await objects.read({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'o', namespace } })).data.a, '2');
  await objects.delete(map);
  shown('any object by its kind, server-side apply');
}

async function lists() {
  for (let i = 0; i < 12; i++) {
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: `l${10 + i}`, labels: { l: String(i % 3) } }, data: {} } });
  }
  assert.equal((await core.listNamespacedConfigMap({ namespace, labelSelector: 'l=1' })).items.length, 4);
  const names = [];
  let token;
  do {
    const page = await core.listNamespacedConfigMap({ namespace, labelSelector: 'l', limit: 5, _continue: token });
    names.push(...page.items.map((i) => i.metadata.name));
    token = page.metadata._continue;
  } while (token);
  assert.equal(names.length, 12);
  await core.deleteCollectionNamespacedConfigMap({ namespace, labelSelector: 'l' });
  shown('selectors, pages, a collection deleted');
}

async function events() {
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const seen = [];
  const watch = new k8s.Watch(config);
  const stop = await watch.watch(path, { allowWatchBookmarks: true, fieldSelector: 'metadata.name=w' }, (type, object) => seen.push(`${type} ${object.data?.a}`), () => {});
  const informed = [];
  const informer = k8s.makeInformer(config, path, () => core.listNamespacedConfigMap({ namespace }));
  for (const verb of ['add', 'update', 'delete']) informer.on(verb, (o) => o.metadata.name === 'w' && informed.push(verb));
  let over = false;
  informer.on('error', (e) => over || assert.fail(String(e)));
  await informer.start();
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'w' }, data: { a: '1' } } });
  await eventually('the informer has it', () => informer.get('w', namespace));
  await core.patchNamespacedConfigMap({ namespace, name: 'w', body: { data: { a: '2' } } }, k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch));
  await core.deleteNamespacedConfigMap({ namespace, name: 'w' });
  await eventually(`watch: ${seen}`, () => seen.filter((s) => !s.startsWith('BOOKMARK')).length === 3);
  assert.deepEqual(seen.filter((s) => !s.startsWith('BOOKMARK')), ['ADDED 1', 'MODIFIED 2', 'DELETED 2']);
  await eventually(`informer: ${informed}`, () => informed.length === 3);
  assert.deepEqual(informed, ['add', 'update', 'delete']);
  over = true;
  await informer.stop();
  stop.abort();
  shown('watch, informer');
}

async function customs() {
  const extension = config.makeApiClient(k8s.ApiextensionsV1Api);
  const schema = { type: 'object', properties: { spec: { type: 'object', properties: { n: { type: 'integer', _default: 4 } } } } };
  await extension.createCustomResourceDefinition({
    body: {
      metadata: { name: 'things.js.example' },
      spec: { group: 'js.example', scope: 'Namespaced', names: { plural: 'things', kind: 'Thing' }, versions: [{ name: 'v1', served: true, storage: true, schema: { openAPIV3Schema: schema } }] },
    },
  });
  const at = { group: 'js.example', version: 'v1', namespace, plural: 'things' };
  for (let i = 0; ; i++) {
    try {
      await custom.createNamespacedCustomObject({ ...at, body: { apiVersion: 'js.example/v1', kind: 'Thing', metadata: { name: 't' }, spec: {} } });
      break;
    } catch (e) {
      assert.ok(e.code === 404 && i < 100, String(e));
      await sleep(50);
    }
  }
  const t = await custom.getNamespacedCustomObject({ ...at, name: 't' });
  assert.deepEqual(t.spec, { n: 4 });
  await custom.deleteNamespacedCustomObject({ ...at, name: 't' });
  shown('custom objects');
  const review = await config.makeApiClient(k8s.AuthorizationV1Api).createSelfSubjectAccessReview({ body: { spec: { resourceAttributes: { verb: 'get', resource: 'pods' } } } });
  assert.equal(review.status.allowed, true);
  assert.equal((await config.makeApiClient(k8s.VersionApi).getCode()).minor, '37');
  shown('access review, version');
}

for (const part of [objects, lists, events, customs]) await part();
process.exit(0);
