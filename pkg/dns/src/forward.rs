//! Everything that is not the cluster's goes to the node's resolvers.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// How long one resolver has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Forwarder {
    resolv_conf: PathBuf,
    own: Vec<SocketAddr>,
    known: Mutex<(Option<SystemTime>, Vec<SocketAddr>)>,
}

impl Forwarder {
    pub(crate) fn new(resolv_conf: PathBuf, own: Vec<SocketAddr>) -> Self {
        Forwarder { resolv_conf, own, known: Mutex::default() }
    }

    fn resolvers(&self) -> Vec<SocketAddr> {
        let changed = std::fs::metadata(&self.resolv_conf).and_then(|m| m.modified()).ok();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if changed.is_none() || known.0 != changed {
            let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
            let mut found = parse(&text);
            found.retain(|address| !self.own.contains(address));
            *known = (changed, found);
        }
        known.1.clone()
    }

    /// Asks the resolvers in turn; `None` if none answers.
    pub(crate) async fn ask(&self, query: &[u8], stream: bool) -> Option<Vec<u8>> {
        for resolver in self.resolvers() {
            let answer = if stream {
                timeout(PATIENCE, over_tcp(resolver, query)).await
            } else {
                timeout(PATIENCE, over_udp(resolver, query)).await
            };
            match answer {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver"),
                Err(_) => tracing::debug!(%resolver, "resolver does not answer"),
            }
        }
        None
    }
}

async fn over_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    // A socket of its own for each question: the kernel picks an unpredictable port.
    let any: IpAddr = if resolver.is_ipv4() { [0, 0, 0, 0].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65535];
    loop {
        let n = socket.recv(&mut buffer).await?;
        // Anything but the answer to this question is not for us.
        if n >= 2 && buffer[..2] == query[..2] {
            buffer.truncate(n);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The `nameserver` lines of a resolv.conf.
fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())??.parse::<IpAddr>().ok()
        })
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_and_the_own_address_is_left_out() {
        let text = "# comment\nsearch x\nnameserver 10.0.0.2\nnameserver ::1\nnameserver nonsense\n";
        assert_eq!(
            parse(text),
            ["10.0.0.2:53".parse().unwrap(), "[::1]:53".parse().unwrap()]
        );
        let file = std::env::temp_dir().join(format!("knarr-resolv-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let forwarder = Forwarder::new(file.clone(), vec!["10.0.0.2:53".parse().unwrap()]);
        assert_eq!(forwarder.resolvers(), ["[::1]:53".parse().unwrap()]);
        std::fs::remove_file(file).unwrap();
    }
}
