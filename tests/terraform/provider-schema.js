#!/usr/bin/env node
// Writes provider-schema.json: for each resource and data source that the Terraform module, or the module that it takes the
// place of, uses, the arguments and blocks that the AWS provider and the null provider take and the attributes that can be
// read, from the npm packages @cdktf/provider-aws and @cdktf/provider-null.
//
//   npm install --prefix DIR @cdktf/provider-aws@21.22.1 @cdktf/provider-null@11.0.1 --ignore-scripts --legacy-peer-deps
//   node tests/terraform/provider-schema.js DIR/node_modules/@cdktf
//
// An argument is a text: its type, and `required` where it is. A block is an object of its arguments; its key `*`, which is no
// argument's name, says how it nests (list, set or single), `one` where there is at most one, and `required`. What the
// packages do not tell is in provider/facts.py.

'use strict';
const fs = require('fs');
const path = require('path');

const USED = {
  aws: {
    provider: ['aws'],
    resource: [
      'aws_autoscaling_group', 'aws_autoscaling_group_tag', 'aws_autoscaling_lifecycle_hook', 'aws_codebuild_project',
      'aws_ebs_volume', 'aws_iam_instance_profile', 'aws_iam_policy', 'aws_iam_role', 'aws_iam_role_policy',
      'aws_iam_role_policy_attachment', 'aws_launch_template', 'aws_network_interface',
    ],
    data: [
      'aws_caller_identity', 'aws_default_tags', 'aws_iam_policy', 'aws_iam_policy_document', 'aws_partition', 'aws_region',
      'aws_subnet',
    ],
  },
  null: { provider: ['null'], resource: ['null_resource'] },
};
// Hundreds of services, of which the tests' provider has none.
const LEFT_OUT = new Set(['endpoints']);

const root = process.argv[2];
if (!root) {
  console.error('usage: provider-schema.js DIRECTORY-OF-THE-PACKAGES');
  process.exit(2);
}

function directory(kind, name) {
  if (kind === 'provider') return 'provider';
  if (name.startsWith('null_')) return name.replace('null_', '');
  return kind === 'data' ? `data-${name.replaceAll('_', '-')}` : name.replace(/^aws_/, '').replaceAll('_', '-');
}

function typeOf(type, storage) {
  const element = storage.replace(/(List|Map)$/, '').replace('boolean', 'bool');
  return type === 'simple' ? element : `${type} ${element}`;
}

// Whether the interface's declaration has the property, and how.
function declaration(text, name, property) {
  const body = text.match(new RegExp(`^export interface ${name}\\b[^{]*\\{(.*?)^\\}`, 'ms'));
  return body?.[1].match(new RegExp(`readonly ${property}(\\??): (.*)`));
}

// `const attrs = { … }` of a function → the arguments and blocks that it writes.
function entries(source, types, body, name) {
  const keys = {};
  const entry = /^ +([a-z0-9_]+): \{\n +value: (.*),\n +isBlock: \w+,\n +type: "(\w+)",\n +storageClassType: "(\w+)",$/gm;
  for (const [, key, value, type, storage] of body.matchAll(entry)) {
    if (LEFT_OUT.has(key)) continue;
    const property = value.match(/\((?:struct\.|this\._)(\w+)/)[1];
    const found = declaration(types, name, property);
    if (!found) throw new Error(`${name}: no declaration of ${property}`);
    const [, optional, declared] = found;
    const nested = value.match(/\b(?!cdktf\b)([a-z]\w*)ToHclTerraform\b(?<!cdktf\.\w+)/);
    const required = optional ? '' : ' required';
    if (nested) {
      const nests = type === 'struct' ? 'single' : declared.includes('[]') ? type : `${type} one`;
      keys[key] = { '*': nests + required, ...block(source, types, nested[1]) };
    } else {
      keys[key] = typeOf(type, storage) + required;
    }
  }
  return Object.fromEntries(Object.entries(keys).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function block(source, types, name) {
  const [, body] = source.match(new RegExp(`^function ${name}ToHclTerraform\\(struct\\) \\{.*?^ {4}const attrs = \\{\\n(.*?)^ {4}\\};`, 'ms'));
  const known = entries(source, types, body, name[0].toUpperCase() + name.slice(1));
  // Attributes that can only be read, of the class that stands for the block.
  const own = source.match(new RegExp(`^class ${name}OutputReference .*?^\\}`, 'msi'));
  return { ...known, ...(own ? computed(own[0]) : {}) };
}

// `// key - computed: true, …` above its getter.
function computed(text) {
  const found = {};
  const getter = /\/\/ (\w+) - computed: true, optional: false, required: false\n(?: +get \w+\(\) \{\n +return (.*);|.* = new cdktf\.(\w+)\()/g;
  for (const [, key, expression, collection] of text.matchAll(getter)) {
    const simple = expression?.match(/\.get(String|Number|Boolean)Attribute/);
    if (simple) found[key] = `${simple[1].toLowerCase().replace('boolean', 'bool')} computed`;
    else if (expression?.includes('getListAttribute')) {
      found[key] = `${expression.includes('tolist') ? 'set' : 'list'} string computed`;
    } else if (collection === 'StringMap') found[key] = 'map string computed';
    else throw new Error(`${key}: ${expression ?? collection} is of no known type`);
  }
  return found;
}

function schema(provider, kind, name) {
  const base = path.join(root, `provider-${provider}`, 'lib', directory(kind, name), 'index');
  const source = fs.readFileSync(`${base}.js`, 'utf8');
  const types = fs.readFileSync(`${base}.d.ts`, 'utf8');

  const top = source.match(/^ {4}synthesizeHclAttributes\(\) \{\n {8}const attrs = \{\n(.*?)^ {8}\};/ms);
  const config = types.match(/^export interface (\w+) extends cdktf\.TerraformMetaArguments|^export interface (\w+Config|\w+ProviderConfig) /m);
  // The last class of the file is the resource itself.
  const own = source.slice(source.lastIndexOf('\nclass '));
  const read = [...own.matchAll(/\.get\w+Attribute\('([a-z0-9_]+)'\)|= new [\w.]+\(this, "([a-z0-9_]+)"/g)]
    .map(([, simple, complex]) => simple ?? complex);
  return {
    arguments: entries(source, types, top ? top[1] : '', config[1] ?? config[2]),
    attributes: [...new Set(read)].sort(),
    computed: computed(own),
  };
}

const out = {};
for (const [provider, kinds] of Object.entries(USED)) {
  const package_ = path.join(root, `provider-${provider}`, 'package.json');
  out[`provider-${provider}`] = JSON.parse(fs.readFileSync(package_, 'utf8')).version;
  for (const [kind, names] of Object.entries(kinds)) {
    out[kind] = { ...out[kind], ...Object.fromEntries(names.map((name) => [name, schema(provider, kind, name)])) };
  }
}
fs.writeFileSync(path.join(__dirname, 'provider-schema.json'), `${JSON.stringify(out, null, 1)}\n`);
