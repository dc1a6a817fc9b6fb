use super::*;

fn frame(to: u8, from: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![to & 1, 0, 0, 0, 0, to, 0, 0, 0, 0, 0, from, 0x88, 0xb5];
    if to != 0xff {
        frame[0] = 0;
    }
    frame.extend_from_slice(body);
    frame
}

fn receive(socket: &UnixDatagram) -> Option<Vec<u8>> {
    let mut buffer = [0; 2000];
    socket
        .recv(&mut buffer)
        .ok()
        .map(|length| buffer[..length].to_vec())
}

#[test]
fn frames_reach_their_destination_and_no_cut_port() -> Result<()> {
    let run_dir = RunDir::new("switch")?;
    let switch = Switch::start(&run_dir)?;
    let machine = switch.port()?;
    let (one, two) = (switch.plug()?, switch.plug()?);
    for socket in [&one, &two] {
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    }
    one.send(&frame(0xff, 1, b"who is there"))?;
    assert_eq!(
        receive(&two).as_deref(),
        Some(&frame(0xff, 1, b"who is there")[..]),
        "a broadcast reaches every port"
    );
    two.send(&frame(1, 2, b"me"))?;
    assert_eq!(receive(&one).as_deref(), Some(&frame(1, 2, b"me")[..]));

    let qemu = UnixDatagram::bind(&machine.nic("52:54:00:00:00:03").local)?;
    qemu.set_read_timeout(Some(Duration::from_millis(300)))?;
    qemu.send_to(&frame(1, 3, b"hello"), &machine.remote)?;
    assert_eq!(receive(&one).as_deref(), Some(&frame(1, 3, b"hello")[..]));
    assert_eq!(
        receive(&two),
        None,
        "a frame to a known address reaches one port"
    );

    machine.set(Quality {
        cut: true,
        ..Quality::default()
    });
    one.send(&frame(3, 1, b"lost"))?;
    assert_eq!(receive(&qemu), None);
    machine.set(Quality {
        delay: Duration::from_millis(40),
        ..Quality::default()
    });
    one.send(&frame(3, 1, b"late"))?;
    assert_eq!(receive(&qemu).as_deref(), Some(&frame(3, 1, b"late")[..]));
    run_dir.passed();
    Ok(())
}
