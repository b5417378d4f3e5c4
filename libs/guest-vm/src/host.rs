//! The host's side of guestinfo: keys in memory behind the wire protocol.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use guestinfo::wire::{Kind, Line};

/// The host's keys, and the way to send the guest requests.
#[derive(Debug)]
pub struct Host {
    keys: Arc<(Mutex<BTreeMap<String, String>>, Condvar)>,
    port: UnixStream,
}

impl Host {
    /// Answers on `port` with `keys` to begin with.
    pub fn start(port: UnixStream, keys: &[(&str, String)]) -> Self {
        let keys: BTreeMap<_, _> = keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let keys = Arc::new((Mutex::new(keys), Condvar::new()));
        let (shared, reader, mut writer) = (Arc::clone(&keys), port.try_clone().unwrap(), port.try_clone().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n') {
                let Ok(line) = line else { return };
                let Some(line) = Line::decode(&line) else { continue };
                let text = String::from_utf8_lossy(&line.body).into_owned();
                if line.kind == Kind::TcloAnswer {
                    shared.0.lock().unwrap().insert(format!("answer.{}", line.seq), text);
                    shared.1.notify_all();
                } else if line.kind == Kind::Request {
                    let body = answer(&mut shared.0.lock().unwrap(), &text);
                    shared.1.notify_all();
                    let _ = writer.write_all(&Line { kind: Kind::Answer, seq: line.seq, body: body.into() }.encode());
                }
            }
        });
        Self { keys, port }
    }

    /// Sets a key, as vSphere would by a reconfiguration.
    pub fn set(&self, key: &str, value: &str) {
        self.keys.0.lock().unwrap().insert(key.to_owned(), value.to_owned());
    }

    /// The key's value.
    pub fn get(&self, key: &str) -> Option<String> {
        self.keys.0.lock().unwrap().get(key).cloned()
    }

    /// Sends a TCLO request.
    pub fn ask(&self, request: &str) {
        let line = Line { kind: Kind::Tclo, seq: 7, body: request.as_bytes().to_vec() };
        (&self.port).write_all(&line.encode()).unwrap();
    }

    /// Waits until the key's value satisfies `wanted`.
    ///
    /// # Errors
    /// The last value.
    pub fn wait(&self, key: &str, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String, String> {
        let start = Instant::now();
        let mut keys = self.keys.0.lock().unwrap();
        loop {
            let value = keys.get(key).cloned().unwrap_or_default();
            if wanted(&value) {
                return Ok(value);
            }
            let Some(left) = limit.checked_sub(start.elapsed()) else { return Err(value) };
            keys = self.keys.1.wait_timeout(keys, left).unwrap().0;
        }
    }
}

fn answer(keys: &mut BTreeMap<String, String>, request: &str) -> String {
    let mut words = request.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("info-get"), Some(key), None) => {
            keys.get(key).map_or_else(|| "0 No value found".to_owned(), |value| format!("1 {value}"))
        }
        (Some("info-set"), Some(key), value) => {
            keys.insert(key.to_owned(), value.unwrap_or_default().to_owned());
            "1 ".to_owned()
        }
        _ => "1 ".to_owned(),
    }
}
