// Videos without controls play while they have the mouse pointer or the keyboard focus.
for (const video of document.querySelectorAll("video")) {
  const play = () => video.play().catch(() => {}), stop = () => { video.pause(); video.currentTime = 0; };
  video.addEventListener("pointerenter", play);
  video.addEventListener("pointerleave", stop);
  video.addEventListener("focus", play);
  video.addEventListener("blur", stop);
}
