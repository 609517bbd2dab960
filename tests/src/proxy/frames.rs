//! The frames of HTTP/2, as far as a proxy needs them: where each begins, of what kind, on which
//! stream.

/// The kind of frame that carries a body.
pub(super) const DATA: u8 = 0;

/// The kind of frame that begins a request and ends a gRPC reply.
pub(super) const HEADERS: u8 = 1;

/// The flag of the last frame of a stream.
pub(super) const END_STREAM: u8 = 1;

/// What a client sends first.
const PREFACE: usize = 24;

const HEADER: usize = 9;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

/// Finds the frames in bytes that come in pieces.
#[derive(Debug)]
pub(super) struct Frames {
    /// So many bytes come before the next head.
    skip: usize,
    head: Vec<u8>,
}

impl Frames {
    pub(super) fn of_client() -> Self {
        Self { skip: PREFACE, head: Vec::new() }
    }

    pub(super) fn of_server() -> Self {
        Self { skip: 0, head: Vec::new() }
    }

    /// The heads that are complete with these bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Vec<Frame> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let [a, b, c, kind, flags, s, t, u, v] = self.head[..] {
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                // The first bit of the stream's number is reserved.
                let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
                found.push(Frame { kind, flags, stream });
                self.head.clear();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_wherever_the_pieces_end() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 3, 4, 0, 0, 0, 0, 0, 9, 9, 9]);
        bytes.extend([0, 0, 0, 1, 5, 0, 0, 0, 7]);
        bytes.extend([0, 0, 2, 0, 1, 0x80, 0, 1, 0, 8, 8]);
        let expected = [(4, 0, 0), (1, 5, 7), (0, 1, 256)];
        for size in 1..=bytes.len() {
            let mut frames = Frames::of_client();
            let found: Vec<_> = bytes
                .chunks(size)
                .flat_map(|piece| frames.feed(piece))
                .map(|frame| (frame.kind, frame.flags, frame.stream))
                .collect();
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }
}
