//! A TCP relay that dies after so many bytes: a target that goes away in the middle of something.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Relays to `to`; after `budget` bytes from clients, every connection is cut and new ones are closed at once.
pub fn relay(to: SocketAddr, budget: i64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let left = Arc::new(AtomicI64::new(budget));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(to) else { continue };
            if left.load(Ordering::SeqCst) <= 0 {
                continue;
            }
            let up = (client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&left));
            std::thread::spawn(move || pump(up.0, up.1, Some(&up.2)));
            std::thread::spawn(move || pump(server, client, None));
        }
    });
    address
}

fn pump(mut from: TcpStream, mut to: TcpStream, left: Option<&AtomicI64>) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(n) = from.read(&mut buffer) {
        let spent = left.is_some_and(|l| l.fetch_sub(i64::try_from(n).unwrap(), Ordering::SeqCst) <= 0);
        if n == 0 || spent || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
