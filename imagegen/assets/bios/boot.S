# The first 440 bytes of a disk, which a BIOS runs: they say on the screen and on the first serial
# line that the disk boots by UEFI only, and stop. UEFI firmware never runs them.
#
# imagegen's unit tests assemble this file and compare it with boot.bin:
#   as --32 -o boot.o boot.S && objcopy --output-target=binary --only-section=.text boot.o boot.bin

    .code16
    .text
    .set base, 0x7c00               # where a BIOS loads the sector
    .set serial, 0x3f8              # COM1

start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $base, %sp
    cld
    # 115,200 baud, 8 bits, no parity, as the image's kernel uses the line.
    movw $(serial + 3), %dx
    movb $0x83, %al
    outb %al, %dx
    movw $serial, %dx
    movb $1, %al
    outb %al, %dx
    incw %dx
    xorb %al, %al
    outb %al, %dx
    incw %dx
    incw %dx
    movb $3, %al
    outb %al, %dx
    sti
    movw $(base + message - start), %si

next:
    lodsb
    testb %al, %al
    jz stop
    movb %al, %cl
    movb $0x0e, %ah                 # INT 10h, AH=0Eh: teletype output
    movw $7, %bx
    int $0x10
    # A line whose other end does not listen must not hang the screen.
    movw $0xffff, %di
    movw $(serial + 5), %dx
wait:
    inb %dx, %al
    testb $0x20, %al                # the transmitter is empty
    jnz send
    decw %di
    jnz wait
send:
    movw $serial, %dx
    movb %cl, %al
    outb %al, %dx
    jmp next

stop:
    hlt
    jmp stop

message:
    .ascii "\r\nThis disk boots by UEFI only, and this machine started it by BIOS.\r\n"
    .ascii "Choose UEFI instead of BIOS, Legacy or CSM in the setup of the machine,\r\n"
    .asciz "or the firmware OVMF for a virtual machine, and start it again.\r\n"
