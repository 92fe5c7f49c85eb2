//! As much of D-Bus as it takes to ask systemd: calls over its private socket, and one signal.
//!
//! After the D-Bus specification 0.42: SASL `EXTERNAL`, little-endian messages.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::Error;

const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PATIENCE: Duration = Duration::from_secs(30);
/// More than systemd ever answers to what is asked here.
const LONGEST: usize = 1 << 20;

const CALL: u8 = 1;
const REPLY: u8 = 2;
const FAILURE: u8 = 3;
const SIGNAL: u8 = 4;

/// A value of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `t`
    Number(u64),
    /// `s`
    Text(String),
    /// `au`
    Numbers(Vec<u32>),
}

/// A connection to systemd.
pub struct Bus {
    stream: UnixStream,
    serial: u32,
}

/// A message that came in.
struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    body: Vec<u8>,
}

fn failed(cause: impl Into<String>) -> Error {
    Error::Systemd {
        cause: cause.into(),
    }
}

fn lost(e: std::io::Error) -> Error {
    failed(format!("the connection: {e}"))
}

impl Bus {
    /// Connects and says who we are.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let mut stream = UnixStream::connect(socket)
            .map_err(|e| failed(format!("{}: {e}", socket.display())))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(lost)?;
        let digits = knarr_sys::process::geteuid().to_string();
        let hex: String = digits.bytes().map(|b| format!("{b:02x}")).collect();
        // Both at once: systemd sits still on a message that it reads together with the last line.
        let hello = format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n");
        stream.write_all(hello.as_bytes()).map_err(lost)?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).map_err(lost)?;
            line.push(byte[0]);
            if line.len() > 1024 {
                return Err(failed("its greeting is no line"));
            }
        }
        if !line.starts_with(b"OK ") {
            let said = String::from_utf8_lossy(&line);
            return Err(failed(format!("it does not take us: {}", said.trim())));
        }
        Ok(Self { stream, serial: 0 })
    }

    /// Makes a transient unit and waits for its job.
    pub fn start_transient(
        &mut self,
        name: &str,
        properties: &[(&str, Value)],
    ) -> Result<(), Error> {
        let mut body = Writer::default();
        body.text(name);
        body.text("replace");
        body.properties(properties);
        // No further units.
        body.array(8, |_| ());
        let reply = self.call(
            MANAGER,
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            &body.bytes,
        )?;
        let job = Reader::new(&reply.body).text()?;
        loop {
            let message = self.receive()?;
            if message.kind != SIGNAL || message.member != "JobRemoved" {
                continue;
            }
            let mut read = Reader::new(&message.body);
            read.number()?;
            if read.text()? != job {
                continue;
            }
            let _unit = read.text()?;
            return match read.text()?.as_str() {
                "done" => Ok(()),
                result => Err(failed(format!("unit {name}: its start ends as {result:?}"))),
            };
        }
    }

    /// Changes properties of a unit, until the next boot.
    pub fn set_properties(&mut self, unit: &str, all: &[(&str, Value)]) -> Result<(), Error> {
        let mut body = Writer::default();
        body.text(unit);
        body.number(1);
        body.properties(all);
        self.call(MANAGER, "SetUnitProperties", "sba(sv)", &body.bytes)
            .map(|_| ())
    }

    /// Stops a unit and forgets that it failed; one that is gone is fine.
    pub fn stop(&mut self, unit: &str) {
        let mut body = Writer::default();
        body.text(unit);
        let _ = self.call(MANAGER, "ResetFailedUnit", "s", &body.bytes);
        body.text("replace");
        let _ = self.call(MANAGER, "StopUnit", "ss", &body.bytes);
    }

    /// A property of the manager that is a text.
    pub fn manager_property(&mut self, name: &str) -> Result<String, Error> {
        let mut body = Writer::default();
        body.text(MANAGER);
        body.text(name);
        let interface = "org.freedesktop.DBus.Properties";
        let reply = self.call(interface, "Get", "ss", &body.bytes)?;
        let mut read = Reader::new(&reply.body);
        match read.signature()?.as_str() {
            "s" => read.text(),
            other => Err(failed(format!("{name} is a {other:?}"))),
        }
    }

    fn call(
        &mut self,
        interface: &str,
        member: &str,
        signature: &str,
        body: &[u8],
    ) -> Result<Message, Error> {
        self.serial += 1;
        let serial = self.serial;
        self.stream
            .write_all(&encode(serial, interface, member, signature, body))
            .map_err(lost)?;
        loop {
            let message = self.receive()?;
            if message.reply_to != serial {
                continue;
            }
            match message.kind {
                REPLY => return Ok(message),
                FAILURE => {
                    let said = Reader::new(&message.body).text().unwrap_or_default();
                    return Err(failed(format!("{member}: {}: {said}", message.error)));
                }
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Result<Message, Error> {
        let mut fixed = [0u8; 16];
        self.stream.read_exact(&mut fixed).map_err(lost)?;
        let mut read = Reader::new(&fixed);
        read.at = 4;
        let (body, _, fields) = (read.number()?, read.number()?, read.number()?);
        let (body, fields) = (body as usize, fields as usize);
        if fixed[0] != b'l' || body > LONGEST || fields > LONGEST {
            return Err(failed("it sends what is no message"));
        }
        let mut rest = fixed.to_vec();
        rest.resize(16 + fields.next_multiple_of(8) + body, 0);
        self.stream
            .read_exact(rest.get_mut(16..).unwrap_or_default())
            .map_err(lost)?;
        decode(fixed[1], &rest, fields, body)
    }
}

fn encode(serial: u32, interface: &str, member: &str, signature: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Writer {
        bytes: vec![b'l', CALL, 0, 1],
    };
    out.number(body.len() as u32);
    out.number(serial);
    out.array(8, |fields| {
        for (code, kind, value) in [
            (1u8, "o", PATH),
            (2, "s", interface),
            (3, "s", member),
            (6, "s", "org.freedesktop.systemd1"),
        ] {
            fields.align(8);
            fields.bytes.push(code);
            fields.signature(kind);
            fields.text(value);
        }
        fields.align(8);
        fields.bytes.push(8);
        fields.signature("g");
        fields.signature(signature);
    });
    out.align(8);
    out.bytes.extend_from_slice(body);
    out.bytes
}

fn decode(kind: u8, bytes: &[u8], fields: usize, body: usize) -> Result<Message, Error> {
    let mut message = Message {
        kind,
        reply_to: 0,
        member: String::new(),
        error: String::new(),
        body: bytes.get(bytes.len() - body..).unwrap_or_default().to_vec(),
    };
    let mut read = Reader::new(bytes);
    read.at = 16;
    while read.at < 16 + fields {
        read.align(8);
        let code = read.byte()?;
        let signature = read.signature()?;
        match signature.as_str() {
            "u" => {
                let number = read.number()?;
                if code == 5 {
                    message.reply_to = number;
                }
            }
            "g" => {
                read.signature()?;
            }
            _ => {
                let text = read.text()?;
                match code {
                    3 => message.member = text,
                    4 => message.error = text,
                    _ => {}
                }
            }
        }
    }
    Ok(message)
}

/// Puts values one after the other, each at its alignment.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
    fn number(&mut self, n: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }
    fn text(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }
    fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }
    /// An array whose elements are aligned to `to`: its length counts from the first of them.
    fn array(&mut self, to: usize, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let place = self.bytes.len() - 4;
        self.align(to);
        let start = self.bytes.len();
        fill(self);
        let length = (self.bytes.len() - start) as u32;
        if let Some(at) = self.bytes.get_mut(place..place + 4) {
            at.copy_from_slice(&length.to_le_bytes());
        }
    }
    /// `a(sv)`
    fn properties(&mut self, all: &[(&str, Value)]) {
        self.array(8, |out| {
            for (name, value) in all {
                out.align(8);
                out.text(name);
                match value {
                    Value::Bool(b) => {
                        out.signature("b");
                        out.number(u32::from(*b));
                    }
                    Value::Number(n) => {
                        out.signature("t");
                        out.align(8);
                        out.bytes.extend_from_slice(&n.to_le_bytes());
                    }
                    Value::Text(t) => {
                        out.signature("s");
                        out.text(t);
                    }
                    Value::Numbers(list) => {
                        out.signature("au");
                        out.array(4, |out| list.iter().for_each(|n| out.number(*n)));
                    }
                }
            }
        });
    }
}

/// Takes values one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(length);
        let got = end.and_then(|end| self.bytes.get(self.at..end));
        self.at = end.unwrap_or(self.at);
        got.ok_or_else(|| failed("its message is too short"))
    }
    fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?.first().copied().unwrap_or(0))
    }
    fn number(&mut self) -> Result<u32, Error> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }
    fn text(&mut self) -> Result<String, Error> {
        let length = self.number()? as usize;
        let text = self.take(length)?;
        self.at += 1;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
    fn signature(&mut self) -> Result<String, Error> {
        let length = usize::from(self.byte()?);
        let text = self.take(length)?;
        self.at += 1;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests;
