#!/usr/bin/env node
// Writes provider-schema.json: for each resource and data source that the Terraform module uses, the arguments and blocks
// that the AWS provider takes and the attributes that can be read, from the npm package @cdktf/provider-aws.
//
//   npm install --prefix DIR @cdktf/provider-aws@21.22.1 --ignore-scripts --legacy-peer-deps
//   node tests/terraform/provider-schema.js DIR/node_modules/@cdktf/provider-aws

'use strict';
const fs = require('fs');
const path = require('path');

const USED = {
  resource: [
    'aws_autoscaling_group', 'aws_autoscaling_group_tag', 'aws_autoscaling_lifecycle_hook', 'aws_ebs_volume',
    'aws_iam_instance_profile', 'aws_iam_policy', 'aws_iam_role', 'aws_iam_role_policy_attachment', 'aws_launch_template',
    'aws_network_interface',
  ],
  data: [
    'aws_caller_identity', 'aws_default_tags', 'aws_iam_policy_document', 'aws_partition', 'aws_region', 'aws_subnet',
  ],
};

const root = process.argv[2];
if (!root) {
  console.error('usage: provider-schema.js PACKAGE-DIRECTORY');
  process.exit(2);
}

// `key: …struct.x` lines of a returned object → { key: null, or the function that makes the nested block }.
function entries(body) {
  const keys = {};
  for (const [, key, value] of body.matchAll(/^\s+([a-z0-9_]+): (.*)$/gm)) {
    const nested = value.match(/\b(?!cdktf\b)([a-z]\w*)ToTerraform\b(?<!cdktf\.\w+ToTerraform)/);
    keys[key] = nested ? nested[1] : null;
  }
  return keys;
}

function schema(kind, name) {
  const directory = (kind === 'data' ? 'data-' : '') + name.replaceAll('_', '-').replace(/^aws-/, kind === 'data' ? 'aws-' : '');
  const text = fs.readFileSync(path.join(root, 'lib', directory, 'index.js'), 'utf8');

  const blocks = {};
  for (const [, block, body] of text.matchAll(/^function (\w+)ToTerraform\(struct\) \{.*?^ {4}return \{\n(.*?)^ {4}\};/gms)) {
    blocks[block] = entries(body);
  }
  const top = text.match(/^ {4}synthesizeAttributes\(\) \{\n {8}return \{\n(.*?)^ {8}\};/ms);
  const tree = (keys) => Object.fromEntries(
    Object.entries(keys).sort().map(([key, block]) => [key, block ? tree(blocks[block]) : null]));

  // The last class of the file is the resource itself.
  const own = text.slice(text.lastIndexOf('\nclass '));
  const read = [...own.matchAll(/\.get\w+Attribute\('([a-z0-9_]+)'\)|= new [\w.]+\(this, "([a-z0-9_]+)"/g)]
    .map(([, simple, complex]) => simple ?? complex);
  return { arguments: tree(entries(top ? top[1] : '')), attributes: [...new Set(read)].sort() };
}

const out = { package: JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8')).version };
for (const [kind, names] of Object.entries(USED)) {
  out[kind] = Object.fromEntries(names.map((name) => [name, schema(kind, name)]));
}
fs.writeFileSync(path.join(__dirname, 'provider-schema.json'), `${JSON.stringify(out, null, 1)}\n`);
