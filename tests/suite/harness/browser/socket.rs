//! A WebSocket (RFC 6455) to a program on the same machine: texts only, nothing compressed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// The sending side.
pub struct Socket {
    stream: TcpStream,
}

/// The receiving side: texts, until the other side closes.
pub struct Incoming {
    stream: BufReader<TcpStream>,
}

impl Socket {
    /// Connects to `ws://127.0.0.1:port/path`.
    pub fn connect(port: u16, path: &str) -> (Self, Incoming) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the browser listens");
        // The key only shows that the other side speaks WebSocket, so it may be a fixed one.
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sends");
        let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer");
        assert!(line.contains(" 101 "), "{line}");
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line).expect("the rest of the answer");
        }
        (Self { stream }, Incoming { stream: reader })
    }

    /// Sends a text. An other side that is gone is noticed by who waits for its answer.
    pub fn send(&mut self, text: &str) {
        let len = text.len();
        let mut frame = vec![0x81]; // the last part of a text
        match len {
            0..=125 => frame.push(0x80 | len as u8),
            126..=65535 => {
                frame.push(0x80 | 126);
                frame.extend((len as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]); // a mask, which a client must send; this one changes nothing
        frame.extend(text.as_bytes());
        let _ = self.stream.write_all(&frame);
    }
}

impl Iterator for Incoming {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut text = Vec::new();
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).ok()?;
            let mut long = [0; 8];
            let len = match head[1] & 0x7f {
                126 => {
                    self.stream.read_exact(&mut long[6..]).ok()?;
                    u64::from_be_bytes(long)
                }
                127 => {
                    self.stream.read_exact(&mut long).ok()?;
                    u64::from_be_bytes(long)
                }
                len => u64::from(len),
            };
            let mut part = vec![0; len as usize];
            self.stream.read_exact(&mut part).ok()?;
            match head[0] & 0x0f {
                0 | 1 => text.extend(part),
                8 => return None,
                _ => continue, // pings
            }
            if head[0] & 0x80 != 0 {
                return Some(String::from_utf8(text).expect("texts are UTF-8"));
            }
        }
    }
}
