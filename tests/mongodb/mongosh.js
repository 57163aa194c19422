#!/usr/bin/env node
// Stands for mongosh: runs the code of --eval with answers that a test has written for the address, and notes each command.
'use strict';
const fs = require('fs');
const path = require('path');

const dir = process.env.ANSWERS;
const given = process.argv.slice(2);
const address = given.find((one) => one.startsWith('mongodb://')).match(/^mongodb:\/\/([^:]+):27017\/\?directConnection=true&/)[1];
const code = given[given.indexOf('--eval') + 1];
const file = path.join(dir, `${address}.json`);
if (!fs.existsSync(file)) {
  console.error(`MongoServerSelectionError: connect ECONNREFUSED ${address}:27017`);
  process.exit(1);
}
const answers = JSON.parse(fs.readFileSync(file, 'utf8'), (key, value) => {
  if (value && value.$date) return new Date(value.$date);
  if (value && value.$oid) return { toHexString: () => value.$oid };
  return value;
});
const db = {
  adminCommand(command) {
    const name = Object.keys(command)[0];
    fs.appendFileSync(path.join(dir, 'commands'), `${address} ${JSON.stringify(command)}\n`);
    const answer = answers[name];
    if (answer === undefined) throw Object.assign(new Error(`no answer to ${name}`), { codeName: 'CommandNotFound' });
    if (answer.codeName) throw Object.assign(new Error(answer.errmsg), { codeName: answer.codeName });
    return answer;
  },
};
new Function('db', 'print', 'quit', code)(db, (...words) => console.log(words.join(' ')), (status) => process.exit(status));
