#!/bin/sh
# Prints the apiservers with a weight above zero in the IPVS table: one line, sorted.
ipvsadm -Ln |
  sed -n 's/^ *-> \([][0-9a-f.:]*:6443\) *[A-Za-z]* *[1-9][0-9]* .*/\1/p' | sort | tr '\n' ' '
