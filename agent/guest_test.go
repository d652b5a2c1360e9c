package agent

const guestVariable = "understudy_guest"

func guest(string) {}
