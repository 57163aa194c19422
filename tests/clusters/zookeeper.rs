//! ZooKeeper, from Debian's packages. The client speaks ZooKeeper's own protocol, as zookeeper.jute defines it.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use ec2_sim::machine::Machine;

use super::clusters::java;
use super::clusters::kind::Kind;
use super::clusters::writer::{PATIENCE, Record, Session, write_one_by_one};

/// The port for clients.
pub(crate) const PORT: u16 = 2181;
/// How long a session outlives its connection.
const SESSION: i32 = 10_000;
/// Reads that are on their way at once.
const BATCH: usize = 500;

const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const SYNC: i32 = 9;

pub(crate) struct ZooKeeper;

impl Kind for ZooKeeper {
    const NAME: &'static str = "zookeeper";
    const HOOKS: &'static str = include_str!("../../packaging/hooks/zookeeper.sh");
    const USER: &'static str = "zookeeper";
    const NEEDS: &'static str = "/usr/share/java/zookeeper.jar";
    const IDENTITY: &'static [&'static str] = &["/mydata/zookeeper.identity", "/mydata/zookeeper/myid"];
    const BROKEN: (&'static str, &'static str) = ("EXTRA_CONFIG", "minSessionTimeout=2000\nmaxSessionTimeout=1000");
    const COMPLAINT: &'static str = "minSessionTimeout must not be larger than maxSessionTimeout";

    fn settings() -> Vec<(&'static str, String)> {
        vec![
            ("JAVA_OPTIONS", "-Xmx128m".to_owned()),
            ("TICK_TIME", "500".to_owned()),
            ("FOUR_LETTER_WORDS", "srvr,mntr,ruok".to_owned()),
        ]
    }

    fn install(machine: &Machine) -> io::Result<()> {
        machine.shell(
            "echo 'zookeeper:x:2181:2181::/nonexistent:/usr/sbin/nologin' >> /etc/passwd
             echo 'zookeeper:x:2181:' >> /etc/group",
        )?;
        java::settings(machine)
    }

    fn write(nodes: &[Ipv4Addr], record: &Record) {
        write_one_by_one(nodes, record, Connection::open);
    }

    fn read_all(node: Ipv4Addr) -> io::Result<BTreeSet<u64>> {
        Connection::open(node)?.read_all()
    }
}

struct Connection {
    stream: TcpStream,
    xid: i32,
}

/// A message to the server, in its making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn long(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn bool(mut self, value: bool) -> Self {
        self.0.push(value.into());
        self
    }

    fn bytes(mut self, value: &[u8]) -> Self {
        self = self.int(i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.0.extend(value);
        self
    }
}

/// A message of the server, as far as it was not read yet.
struct Answer(Vec<u8>);

impl Answer {
    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        if self.0.len() < count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let rest = self.0.split_off(count);
        Ok(std::mem::replace(&mut self.0, rest))
    }

    fn int(&mut self) -> io::Result<i32> {
        let bytes = self.take(4)?;
        Ok(bytes.into_iter().fold(0, |value, byte| value << 8 | i32::from(byte)))
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let count = self.int()?;
        self.take(usize::try_from(count).unwrap_or_default())
    }
}

impl Connection {
    fn open(address: Ipv4Addr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream, xid: 0 };
        let hello = Message::default().int(0).long(0).int(SESSION).long(0).bytes(&[0; 16]).bool(false);
        connection.send(hello)?;
        let mut answer = connection.receive()?;
        let _version = answer.int()?;
        if answer.int()? <= 0 {
            return Err(io::Error::other("no session"));
        }
        Ok(connection)
    }

    fn send(&mut self, message: Message) -> io::Result<()> {
        self.stream.write_all(&Message::default().bytes(&message.0).0)
    }

    fn receive(&mut self) -> io::Result<Answer> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?];
        self.stream.read_exact(&mut body)?;
        Ok(Answer(body))
    }

    fn ask(&mut self, kind: i32, path: &str) -> io::Result<Message> {
        self.xid += 1;
        Ok(Message::default().int(self.xid).int(kind).bytes(path.as_bytes()))
    }

    /// The answer to the oldest request that has none.
    fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = self.receive()?;
        let (_xid, _zxid, error) = (answer.int()?, answer.take(8)?, answer.int()?);
        if error == 0 { Ok(answer) } else { Err(io::Error::other(format!("ZooKeeper's error {error}"))) }
    }
}

fn path(key: u64) -> String {
    format!("/w{key:09}")
}

impl Session for Connection {
    fn write(&mut self, key: u64) -> io::Result<()> {
        let path = path(key);
        // Everybody may do everything; a persistent node.
        let rights = |message: Message| message.int(1).int(31).bytes(b"world").bytes(b"anyone").int(0);
        let request = rights(self.ask(CREATE, &path)?.bytes(path.as_bytes()));
        self.send(request)?;
        self.answer().map(drop)
    }
}

impl Connection {
    fn read_all(&mut self) -> io::Result<BTreeSet<u64>> {
        self.stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // This node then has all that the leader has.
        let sync = self.ask(SYNC, "/")?;
        self.send(sync)?;
        self.answer()?;
        let list = self.ask(GET_CHILDREN, "/")?.bool(false);
        self.send(list)?;
        let mut answer = self.answer()?;
        let mut keys = Vec::new();
        for _ in 0..answer.int()? {
            let name = String::from_utf8(answer.bytes()?).map_err(io::Error::other)?;
            keys.extend(name.strip_prefix('w').and_then(|key| key.parse::<u64>().ok()));
        }
        let mut all = BTreeSet::new();
        for batch in keys.chunks(BATCH) {
            for key in batch {
                let get = self.ask(GET_DATA, &path(*key))?.bool(false);
                self.send(get)?;
            }
            for key in batch {
                if self.answer()?.bytes()? == path(*key).as_bytes() {
                    all.insert(*key);
                }
            }
        }
        Ok(all)
    }
}
