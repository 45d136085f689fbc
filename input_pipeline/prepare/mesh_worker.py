"""Finds face meshes with MediaPipe, for `landmarks.MeshFinder`, in an environment of its own.

It imports nothing of this project. On standard input come images: height and width (uint32,
little-endian) and then the pixels (RGB, uint8). For each one the answer on standard output is the
number of faces (uint32) and 468 points (float32 x, y, in pixels) of each.
"""

import struct
import sys

import mediapipe
import numpy as np

POINTS = 468
LARGEST_NUMBER = 4


def main():
  stream, answers = sys.stdin.buffer, sys.stdout.buffer
  # Anything that libraries print must not get between the answers.
  sys.stdout = sys.stderr
  mesh = mediapipe.solutions.face_mesh.FaceMesh(
    static_image_mode=True, max_num_faces=LARGEST_NUMBER, refine_landmarks=False
  )
  while header := stream.read(8):
    height, width = struct.unpack('<II', header)
    pixels = stream.read(height * width * 3)
    image = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    faces = mesh.process(image).multi_face_landmarks or []
    points = [[(p.x * width, p.y * height) for p in face.landmark[:POINTS]] for face in faces]
    answers.write(struct.pack('<I', len(points)) + np.array(points, '<f4').tobytes())
    answers.flush()


if __name__ == '__main__':
  main()
