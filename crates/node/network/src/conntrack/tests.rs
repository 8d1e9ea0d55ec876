//! Bytes as the kernel sends and takes them.

use super::*;

/// What a kernel (6.18, little-endian) answered: two flows to 10.96.0.7:53, the first to where nobody was, the second
/// translated to 10.244.0.2:3000.
const DUMP: &str = "\
a40000000001220001000000d72b0000020000003400018014000180080001000af4000a080002000a6000071c0002800500010011000000\
060002001388000006000300003500003400028014000180080001000a600007080002000af4000a1c000280050001001100000006000200\
0035000006000300138800000800030000000188080008000000000008000c0083445ff908000b0000000001080007000000001d\
a40000000001220001000000d72b0000020000003400018014000180080001000af40009080002000a6000071c0002800500010011000000\
060002001388000006000300003500003400028014000180080001000af40002080002000af400091c000280050001001100000006000200\
0bb8000006000300138800000800030000000\
1aa080008000000000008000c000f7fbfb108000b0000000001080007000000001d";

/// Where things are in one of its messages: each is 164 bytes long.
const LENGTH: usize = 164;
const PROTOCOL: usize = 52;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn flow(source: &str, reply_source: &str, id: u32) -> Flow {
    Flow {
        source: source.parse().unwrap(),
        destination: "10.96.0.7:53".parse().unwrap(),
        reply_source: reply_source.parse().unwrap(),
        id,
    }
}

/// A message that ends an answer.
fn end(kind: u16, code: i32) -> Vec<u8> {
    let mut message = request(kind, 0, 1, &[]);
    message[HEADER_BYTES..].copy_from_slice(&code.to_ne_bytes());
    message
}

#[test]
#[cfg(target_endian = "little")]
fn a_dump_is_read() {
    let mut flows = Vec::new();
    assert!(!read(&bytes(DUMP), 1, &mut flows).unwrap(), "more may follow");
    assert_eq!(
        flows,
        [
            flow("10.244.0.10:5000", "10.96.0.7:53", 0x8344_5ff9),
            flow("10.244.0.9:5000", "10.244.0.2:3000", 0x0f7f_bfb1)
        ]
    );
}

#[test]
#[cfg(target_endian = "little")]
fn what_is_not_ours_is_passed_over() {
    #[track_caller]
    fn check(name: &str, change: impl Fn(&mut Vec<u8>), found: usize) {
        let mut dump = bytes(DUMP);
        change(&mut dump);
        let mut flows = Vec::new();
        assert!(!read(&dump, 1, &mut flows).unwrap(), "{name}");
        assert_eq!(flows.len(), found, "{name}");
    }
    check("as it is", |_| {}, 2);
    check("tcp", |dump| dump[PROTOCOL] = 6, 1);
    check("another request's answer", |dump| dump[8] = 9, 1);
    check("another message", |dump| dump[4] = 7, 1);
    check("an attribute longer than its message", |dump| dump[20] = 0xff, 1);
    check("an attribute shorter than its header", |dump| dump[20] = 1, 1);
    // The attribute after the two tuples, the status, becomes a zone.
    check("a zone", |dump| dump[20 + 52 + 52 + 2] = 18, 1);
    check("no entry at all", |dump| dump.truncate(LENGTH), 1);
}

#[test]
fn an_answer_ends() {
    let mut flows = Vec::new();
    assert!(read(&end(NLMSG_DONE, 0), 1, &mut flows).unwrap());
    assert!(read(&end(NLMSG_ERROR, 0), 1, &mut flows).unwrap());
    let error = read(&end(NLMSG_ERROR, -1), 1, &mut flows).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EPERM));
    assert!(!read(&end(NLMSG_DONE, 0), 2, &mut flows).unwrap(), "of another request");
    assert!(read(&[0; 8], 1, &mut flows).is_err());
    assert!(read(&[0; HEADER_BYTES], 1, &mut flows).is_err(), "a length of 0 would never end");
}

#[test]
#[cfg(target_endian = "little")]
fn a_flow_is_named_by_its_first_packet_and_its_id() {
    // The kernel's own words for the first flow: its original tuple, then its id.
    let dump = bytes(DUMP);
    let expected = [&dump[20..72], &dump[140..148]].concat();
    assert_eq!(name_of(&flow("10.244.0.10:5000", "10.96.0.7:53", 0x8344_5ff9)), expected);
    let whole = request(DELETE, NLM_F_ACK, 1, &expected);
    assert_eq!(whole[..20], bytes("5000000002010500010000000000000002000000"));
}
