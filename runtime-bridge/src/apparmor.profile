# What a container may not do that neither capabilities nor the filter of system calls nor its mounts forbid. NAME is put in when it is loaded.
profile NAME flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  unix,
  umount,

  # Anybody may end it; it may reach its own kind alone.
  signal (receive),
  signal (send) peer=NAME,
  ptrace (trace,read,tracedby,readby) peer=NAME,

  deny mount,

  # The machine, as /proc and /sys show it.
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,
  deny /proc/{acpi,bus,fs,irq,scsi}/** wklx,
  deny /proc/sys/{abi,debug,dev,vm}/** wklx,
  deny /proc/sys/kernel/{core_pattern,hotplug,modprobe,sysrq,panic*,kexec*,randomize_va_space,yama/**} wklx,
  deny /sys/{block,bus,class,dev,devices,hypervisor,module,power}/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/{security,debug,tracing}/** rwklx,
  deny /sys/kernel/** wklx,
  deny /sys/fs/[^c]*/** wklx,
}
