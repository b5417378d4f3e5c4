//! One try at the Docker API from outside.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use super::LIMIT;

/// How long the guest may be silent before the connection is given up.  QEMU accepts for a guest that is not there yet, and
/// sends its segment anew only after seconds: many short tries see the guest sooner than one long one.
const SILENCE: Duration = Duration::from_millis(100);
/// Pause after the guest refused: it is there, and its API is not.
const REFUSED: Duration = Duration::from_millis(5);

/// Handshake and `GET /_ping` on 127.0.0.1:`port`; the error says how far it came.
pub(crate) fn ping(port: u16, tls: &Arc<ClientConfig>) -> Result<(), String> {
    let refused = |what: &str| {
        std::thread::park_timeout(REFUSED);
        Err(what.to_owned())
    };
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return refused("QEMU does not listen") };
    let failed = |e: std::io::Error| e.to_string();
    stream.set_nodelay(true).map_err(failed)?;
    let name = ServerName::try_from("127.0.0.1").map_err(|e| e.to_string())?;
    let mut connection = ClientConnection::new(Arc::clone(tls), name).map_err(|e| e.to_string())?;
    connection.write_tls(&mut stream).map_err(failed)?;
    stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
    match stream.peek(&mut [0]) {
        Ok(0) => return refused("the connection was closed"),
        Ok(_) => {}
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            return Err("the guest is silent".to_owned());
        }
        Err(_) => return refused("the connection was reset"),
    }
    stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: vch\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).map_err(failed)?;
    if &head == b"HTTP/1.1 200" { Ok(()) } else { Err(String::from_utf8_lossy(&head).into_owned()) }
}
